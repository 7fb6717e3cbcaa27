"""Stage 2: what carries a capability in a teacher, the signals that a student is taught from, and the score to be kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.errors import NexusError
from nexus_core.profiling import OUTPUT

if TYPE_CHECKING:
    from nexus_core.plugins import Plugins
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.model import CapabilityProfile
    from nexus_core.profiling.run import ProfileSettings
    from nexus_core.registry import Registry
    from nexus_core.types import CapabilityMetric, Contract, Teacher

SIGNALS = "signals"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many samples: to keep signals of, of the drill beside them, and of the verify split (0: no scores)."""

    signals: int
    drill: int
    gate: int


@dataclass(frozen=True, slots=True, eq=False)
class ProfileOrder:
    """One loaded teacher to be profiled on one capability. `weights` is the hash of its weights."""

    run: Path
    registry: Registry
    plugins: Plugins
    contract: Contract
    metric: CapabilityMetric
    teacher: Teacher
    weights: str
    settings: ProfileSettings
    amounts: Amounts
    say: Callable[[str], None]
    beat: Callable[[], None]

    @property
    def store(self) -> ProfileStore:
        from nexus_core.profiling.artifacts import ProfileStore

        return ProfileStore(self.run / OUTPUT)

    @property
    def key(self) -> tuple[str, str, str]:
        """Teacher, capability, weights."""
        return self.teacher.source.teacher_id, self.contract.capability, self.weights


def profile_settings(registry: Registry, sample_size: int, **given: Any) -> ProfileSettings:
    """The registry's numbers, for so many samples; `given` are layers, seed and data."""
    from nexus_core.profiling.run import ProfileSettings

    numbers = registry.profiling
    return ProfileSettings(
        sample_size=sample_size,
        pilot=numbers.pilot_samples,
        verify=numbers.verify_samples,
        blocks=numbers.layers,
        components=numbers.components_tested,
        k=numbers.components_most,
        k_middle=numbers.components_middle,
        max_drop=numbers.reconstruction_max_drop,
        **given,
    )


def decompose(order: ProfileOrder) -> CapabilityProfile:
    """The profile itself: blocks, directions, proofs. It is stored with its plan."""
    from nexus_core.profiling.plan import PlanSettings, plan_capability
    from nexus_core.profiling.run import Profiler

    profiler = Profiler(
        order.plugins, order.teacher, order.metric, order.contract, order.settings, order.say, order.beat
    )
    profile, _ = profiler.run()
    order.store.write(profile, plan_capability(profile, order.contract, PlanSettings.of(order.registry.profiling)))
    return profile


def collect(order: ProfileOrder, profile: CapabilityProfile) -> Path:
    """The signals that the student is taught from; gives the directory of their cache.

    `profile` is as stored (at half precision): in those bases the student will be held.
    """
    from nexus_core.profiling.cache import SignalCache
    from nexus_core.profiling.heads import important_heads
    from nexus_core.profiling.signals import Collector

    cache = SignalCache(order.run / SIGNALS, {profile.teacher: order.weights})
    heads = important_heads(profile, order.contract.thresholds, order.registry.profiling.attention_heads)
    collector = Collector(order.teacher, order.metric, profile, cache, order.say, order.beat, heads)
    collector.collect(order.amounts.signals, order.settings.seed, order.settings.data)
    if order.settings.data is None and order.amounts.drill:
        collector.drill(order.amounts.drill, order.settings.seed)
    return cache.directory


def score(order: ProfileOrder, resume: bool) -> None:
    """The teacher's scores on the verify split, which the gate compares the student with."""
    from nexus_core.profiling.reference import gate_request, is_current, measure_reference

    if not order.amounts.gate:
        return
    request = gate_request(order.contract, order.amounts.gate, order.settings.seed)
    stored = order.store.reference(*order.key) if resume else None
    if stored is not None and is_current(stored, order.metric, request):
        order.say("scored already")
        return
    order.say(f"scores on {request.n} samples of the verify split")
    reference = measure_reference(order.teacher, order.metric, request, order.weights, lambda done, total: order.beat())
    order.store.write_reference(reference)
    order.say(f"{reference.metric} {reference.score:.3f} on {reference.n} samples of the verify split")


def is_finished(order: ProfileOrder) -> bool:
    """Whether what is stored is what is asked for; a damaged, foreign or differently measured profile is named."""
    store, settings = order.store, order.settings
    teacher, capability, weights = order.key
    if not store.root.is_dir() or (teacher, capability) not in store.profiles():
        return False
    stored = store.read(teacher, capability, weights)
    asked: dict[str, Any] = {"samples": settings.sample_size + settings.verify, "seed": settings.seed}
    found: dict[str, Any] = {"samples": stored.n, "seed": stored.seed}
    if settings.layers:
        asked["blocks"], found["blocks"] = sorted(settings.layers), sorted(block.block for block in stored.blocks)
    if differing := [f"{key} {found[key]}, not {asked[key]}" for key in asked if asked[key] != found[key]]:
        raise NexusError(
            f"the stored profile of {teacher}/{capability} was measured otherwise: {'; '.join(differing)}",
            "leave out --resume to measure again in its place, or give another --run",
        )
    return True


def profile_files(run: Path, teacher: str, capability: str) -> list[Path]:
    """Every file that holds something of this teacher and capability alone."""
    from nexus_core.profiling.artifacts.layout import plan_file, profile_folder

    store = run / OUTPUT
    files = [path for path in (store / profile_folder(teacher, capability)).glob("*") if path.is_file()]
    plan = store / plan_file(teacher, capability)
    return [*files, *([plan] if plan.exists() else []), *_signal_files(run, teacher, capability)]


def forget(run: Path, teacher: str, capability: str) -> None:
    """Remove what the run has of this teacher and capability, so that it is measured as if for the first time."""
    from nexus_core.profiling.artifacts import ArtifactError, ProfileStore

    store = ProfileStore(run / OUTPUT)
    if store.root.is_dir():
        try:
            if (teacher, capability) in store.profiles():
                store.remove(teacher, capability)
        except ArtifactError:  # what cannot be read cannot be mended: whoever needs the rest of it measures it again
            shutil.rmtree(store.root)
    for entry in sorted((run / SIGNALS).glob("*.json")):
        if _owner(entry) in (None, (teacher, capability)):
            entry.unlink()
            entry.with_suffix(".npz").unlink(missing_ok=True)


def forget_other_weights(order: ProfileOrder) -> None:
    """A teacher whose weights are others than those that were profiled is another teacher: nothing of that one stays."""
    from nexus_core.profiling.artifacts import ArtifactError

    teacher, _, weights = order.key
    if not order.store.root.is_dir():
        return
    for name, capability in order.store.profiles():
        if name == teacher:
            try:
                order.store.reference(name, capability, weights)
            except ArtifactError:
                forget(order.run, name, capability)


def _owner(entry: Path) -> tuple[str, str] | None:
    """Teacher and capability of an entry of the signal cache; None where it cannot be read."""
    try:
        raw = json.loads(entry.read_bytes())
        return str(raw["teacher"]), str(raw["capability"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _signal_files(run: Path, teacher: str, capability: str) -> list[Path]:
    """Entries and arrays of the signal cache."""
    entries = [entry for entry in (run / SIGNALS).glob("*.json") if _owner(entry) == (teacher, capability)]
    return [path for entry in sorted(entries) for path in (entry, entry.with_suffix(".npz"))]
