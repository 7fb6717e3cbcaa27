"""Stage 2: one unit for each teacher and capability."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import write_atomic
from nexus_core.pipeline.stages import profile as stage
from nexus_core.pipeline.units import Desk, Estimate, Unit, digest_of, plain
from nexus_core.profiling import OUTPUT
from nexus_core.types import Kind

if TYPE_CHECKING:
    from nexus_core.pipeline.bench import Bench
    from nexus_core.pipeline.selection import Pair
    from nexus_core.profiling.run import NothingToProtect

# Numbers of the registry's section that decide other things than what a unit of this stage leaves.
_ELSEWHERE = {"samples", "sample_sizes", "drill", "overlap_heavy", "verify_samples", "layers"}
UNABLE = "unable"
MIB = 1 << 20


def profile_unit(bench: Bench, pair: Pair) -> Unit:
    """Profile, signals, drill and the scores on the verify split."""
    contract, amounts = bench.contract(pair), bench.amounts(pair)
    teacher = bench.teacher_identity(pair)
    numbers = {name: value for name, value in plain(bench.registry.profiling).items() if name not in _ELSEWHERE}
    digest = digest_of(
        teacher=teacher,
        code=bench.code((Kind.CAPABILITY, pair.capability)),
        contract=[contract.benchmark, contract.metric, contract.direction, contract.rank_cap, contract.thresholds],
        numbers=numbers,
        samples=[bench.rung.profile, bench.held_back, bench.blocks],
        amounts=amounts,
        layers=bench.options.layers,
        data=bench.data_identity(pair.capability),
        seed=bench.options.seed,
        load=bench.load_options,
    )
    return Unit(
        name=f"profile/{pair.name}",
        stage=2,
        digest=digest,
        work=partial(_work, bench, pair),
        estimate=_estimate(bench, pair, amounts),
        sound=partial(_sound, bench.run),
        facts={"teacher": teacher},
    )


def _work(bench: Bench, pair: Pair, desk: Desk) -> Sequence[Path]:
    from nexus_core.profiling.run import NothingToProtect

    unable_path(bench.run, pair).unlink(missing_ok=True)
    if desk.fresh:
        stage.forget(bench.run, pair.teacher, pair.capability)
    else:
        _mend(bench, pair)
    order = _order(bench, pair, desk)
    stage.forget_other_weights(order)
    if not (order.store.root.is_dir() and order.key[:2] in order.store.profiles()):
        try:
            stage.decompose(order)
        except NothingToProtect as error:
            desk.say(f"dropped: {error.message}")
            return [_drop(bench.run, pair, error)]
    profile = order.store.read(*order.key)  # as stored, at half precision: in those bases the student will be held
    stage.collect(order, profile)
    stage.score(order, resume=True)
    return stage.profile_files(bench.run, pair.teacher, pair.capability)


def unable_path(run: Path, pair: Pair) -> Path:
    """Where it stands why a teacher does not have a capability, if so."""
    return run / UNABLE / pair.teacher / f"{pair.capability}.json"


def unable(run: Path, pair: Pair) -> str:
    """Why this teacher cannot teach this, or nothing."""
    try:
        return str(json.loads(unable_path(run, pair).read_bytes())["reason"])
    except FileNotFoundError:
        return ""


def _drop(run: Path, pair: Pair, error: NothingToProtect) -> Path:
    path = unable_path(run, pair)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps({"reason": error.message}, indent=1) + "\n").encode())
    return path


def _mend(bench: Bench, pair: Pair) -> None:
    """Of a unit that is made again from the same inputs, only what is damaged goes."""
    from nexus_core.profiling.artifacts import ArtifactError, ProfileStore

    store = ProfileStore(bench.run / OUTPUT)
    try:
        if store.root.is_dir() and (pair.teacher, pair.capability) in store.profiles():
            store.read(pair.teacher, pair.capability)
            store.reference(pair.teacher, pair.capability)
    except ArtifactError:
        stage.forget(bench.run, pair.teacher, pair.capability)
        return
    for file in bench.ledger.damaged_files(f"profile/{pair.name}"):
        if file.parent == bench.run / stage.SIGNALS:
            file.with_suffix(".json").unlink(missing_ok=True)
            file.with_suffix(".npz").unlink(missing_ok=True)
    for entry in (bench.run / stage.SIGNALS).glob("*.json"):
        if not entry.with_suffix(".npz").exists():
            entry.unlink()


def _order(bench: Bench, pair: Pair, desk: Desk) -> stage.ProfileOrder:
    from nexus_core.pipeline.presence import load_teacher
    from nexus_core.profiling.run import weights_hash

    desk.say("loading the teacher")
    teacher = load_teacher(bench.plugins, bench.registry.teacher(pair.teacher), bench.load_options)
    data = bench.options.datasets.get(pair.capability)
    layers, seed = bench.options.layers, bench.options.seed
    settings = stage.profile_settings(bench.registry, bench.rung.profile, layers=layers, seed=seed, data=data)
    return stage.ProfileOrder(
        run=bench.run,
        registry=bench.registry,
        plugins=bench.plugins,
        contract=bench.contract(pair),
        metric=bench.selection.metrics[pair.capability],
        teacher=teacher,
        weights=weights_hash(teacher),
        settings=replace(settings, verify=bench.held_back, blocks=bench.blocks),
        amounts=bench.amounts(pair),
        say=desk.say,
        beat=lambda: None,
    )


def _sound(run: Path) -> list[str]:
    """The files over all profiles belong to every one of them."""
    from nexus_core.profiling.artifacts import ProfileStore

    store = ProfileStore(run / OUTPUT)
    if not store.root.is_dir():
        return []
    shared: list[Any] = [finding for finding in store.verify() if "/" not in finding.path]
    return [f"{store.root}: {finding}" for finding in shared]


def _estimate(bench: Bench, pair: Pair, amounts: stage.Amounts) -> Estimate:
    from nexus_core.architect.budget import teacher_size

    size, costs, length = teacher_size(bench.registry, pair.teacher), bench.measured, bench.characters(pair)
    kept = amounts.signals * length
    told = amounts.drill * bench.characters(pair, drill=True) if amounts.drill else 0.0
    profiled = (bench.rung.profile + bench.held_back) * length
    seconds = size * (
        costs.profile * profiled + costs.signals * (kept + told / 3) + costs.score * amounts.gate * length
    )
    disk = (kept + told) * costs.bytes_per_character / MIB
    return Estimate(costs.fixed + seconds, costs.memory_mb + 3 * 4 * size / MIB, disk)
