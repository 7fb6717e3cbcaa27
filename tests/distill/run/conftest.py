"""A run of two capabilities with the signals of two real teachers, planned by `nexus architect`, taught by `nexus distill`.

Spectra, signals, plan and training are real and tiny. Which components are necessary is not measured (that takes minutes):
all that are kept are protected, as the profiler does where its samples decide nothing.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from nexus_core.cli.context import load_teacher, open_plugins, open_registry
from nexus_core.cli.main import cli, main
from nexus_core.distill import settings as teaching
from nexus_core.distill.settings import PhaseSettings, TeachSettings, read_teaching
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.cache import SignalCache
from nexus_core.profiling.measure import spectra, tokenizer_facts
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.profiling.run import weights_hash
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.signals import Collector
from nexus_core.profiling.sites import find_sites
from nexus_core.types import SampleRequest, Split

TEACHERS = {"reasoning": "zoo-reasoning", "tools": "zoo-tools"}
BLOCK, K, SAMPLES = "model.layers.1", 6, 8
PRESETS = """
version: 1
tower_latent_factor: 1.2
compare_weights_up_to: 1.0e+9
presets:
  tiny:
    description: as small as it goes
    backbone: {source: zoo-backbone}
    adapters: {rank_most: 4, delta_targets: [self_attn.q_proj], delta_rank: {least: 2, most: 2}}
    towers: {text: {thought_tokens: 0}}
    router: {buckets: 64, width: 2, most: 1}
    budget: {}
"""
STEPS = 3


def profile(run: Path, teacher_id: str, capability: str) -> None:
    """What `nexus profile` leaves of one teacher, as far as distillation reads it."""
    registry, plugins = open_registry(), open_plugins()
    teacher, metric = load_teacher(plugins, registry.teacher(teacher_id)), plugins.capability_metric(capability)
    contract, weights = registry.contract(capability, teacher_id), weights_hash(teacher)
    samples = list(metric.samples(SampleRequest(Split.PROFILE, SAMPLES)))
    scorer = Scorer(teacher, metric, samples)
    sites = [site for site in find_sites(teacher, teacher.encode(samples[:2])) if site.name == BLOCK]
    (found,) = spectra(scorer, sites, range(SAMPLES), K, False)
    kept = [
        ComponentResult(i, ComponentClass.NON_NEGOTIABLE, 0.0, -0.3, 0.3, SAMPLES, 1 / K, undecided=True)
        for i in range(K)
    ]
    block = BlockProfile(
        block=BLOCK,
        index=found.site.index,
        dim=found.site.width,
        pooling="tokens",
        positions="answer",
        pca=found.pca,
        component_indices=tuple(range(K)),
        coords=np.zeros((SAMPLES, K)),
        explained_variance=(0.5,),
        components=tuple(kept),
        tolerance=0.1,
    )
    made = CapabilityProfile(
        teacher=teacher_id,
        weights_hash=weights,
        capability=capability,
        metric=contract.metric,
        direction=contract.direction,
        baseline_score=0.9,
        n=SAMPLES,
        seed=42,
        seconds=1.0,
        blocks=(block,),
        pilot={f"model.layers.{i}": 0.5 for i in range(len(teacher.blocks))},
        verify_outputs=tuple(VerifyOutput(s.id, s.digest, s.target, 1.0) for s in samples),
        reconstruction=(ReconstructionResult(BLOCK, K, 0.9, 0.0, 0.01, 0.1, SAMPLES),),
        tokenizer=tokenizer_facts(teacher.processor),
    )
    store = ProfileStore(run / "niwt_stage2_output")
    store.write(made, plan_capability(made, contract, PlanSettings.of(registry.profiling)))
    stored = store.read(teacher_id, capability, weights)
    Collector(teacher, metric, stored, SignalCache(run / "signals", {teacher_id: weights})).collect(12, 42)


@functools.cache  # the preset's other numbers may be edited while tests run
def tiny_teaching(preset: str) -> TeachSettings:
    """The preset, with batches, evaluations and phases of seconds."""
    found = read_teaching(preset)
    phases = (
        PhaseSettings("joint", True, 9, 1e-3, 1e-3, -1, 1, 1.0),
        PhaseSettings("adapters", False, 9, 1e-3, 0.0, 0, 1, 1.0),
    )
    return replace(
        found,
        precision="fp32",
        data=replace(found.data, batch_size=0, batch_tokens=200, held=1),
        accumulate=2,
        phases=phases,
        recovery=replace(found.recovery, settle=2, check_every=2, most_rollbacks=2),
        retention=replace(found.retention, first=0.5, every=2, screen=2, full=4),
        journal=replace(found.journal, checkpoint_every=2),
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: str
    err: str


@contextmanager
def small_numbers() -> Iterator[None]:
    """Inside, the command reads these instead of the presets, and teaches a router of few prompts."""
    from nexus_core.distill import routing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(teaching, "read_teaching", tiny_teaching)
        few = {"train_prompts": 12, "held_out_prompts": 6, "negative_prompts": 20, "router_epochs": 1}
        whole = routing.RouterSettings
        patch.setattr(routing, "RouterSettings", lambda: whole(**few))
        patch.delenv("NEXUS_PLUGINS", raising=False)
        yield


@pytest.fixture(autouse=True)
def tiny_settings() -> Iterator[None]:
    """In every test of this folder, and in no other."""
    with small_numbers():
        yield


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command as the shell runs it, funnel and all."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = capsys.readouterr()
        return Ended(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture(scope="session")
def planned_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Profiles, signals, and the plan that the architect made of them."""
    run = tmp_path_factory.mktemp("planned") / "run"
    for capability, teacher in TEACHERS.items():
        profile(run, teacher, capability)
    presets = run / "presets.yaml"
    presets.write_text(PRESETS)
    with small_numbers():
        cli.main(["architect", "--run", str(run), "--presets", str(presets)], standalone_mode=False)
    return run


@pytest.fixture(scope="session")
def taught_once(planned_once: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, taught by `nexus distill`: a few steps meet no contract."""
    run = tmp_path_factory.mktemp("taught") / "run"
    shutil.copytree(planned_once, run)
    with small_numbers(), pytest.raises(SystemExit) as ended:
        cli.main(["distill", "--run", str(run), "--steps", str(STEPS)], standalone_mode=False)
    assert ended.value.code == 3
    return run


@pytest.fixture
def planned(planned_once: Path, taught_once: Path, tmp_path: Path) -> Path:
    """A run of one's own, planned, with its rows (which are built once from the same signals)."""
    run = Path(shutil.copytree(planned_once, tmp_path / "run"))
    for capability in TEACHERS:
        rows = Path("distill", capability, "rows.safetensors")
        (run / rows).parent.mkdir(parents=True)
        shutil.copy(taught_once / rows, run / rows)
    return run


@pytest.fixture
def taught(taught_once: Path, tmp_path: Path) -> Path:
    """A run of one's own, taught."""
    return Path(shutil.copytree(taught_once, tmp_path / "run"))


@pytest.fixture
def summary_of() -> Callable[[Path], dict]:
    """summary.json, refused if it is not strict JSON."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return lambda run: json.loads((run / "distill/summary.json").read_text(), parse_constant=refuse)


@pytest.fixture
def bytes_of() -> Callable[[Path], dict[str, str]]:
    """The hash of every file below a directory, by name."""

    def hashes(path: Path) -> dict[str, str]:
        found = sorted(f for f in path.rglob("*") if f.is_file())
        return {f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in found}

    return hashes
