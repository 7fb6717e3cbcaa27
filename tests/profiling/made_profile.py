"""Made-up profiles of two blocks, a store that they go into, and all that lies in a directory."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.plan import CapabilityPlan, PlanSettings, plan_capability
from nexus_core.types import Contract, Direction, Thresholds

SETTINGS = PlanSettings(variance_fraction=0.9, loss_weight_least=5, loss_weight_most=10)


def block(index: int = 2, k: int = 3, dim: int = 16, n: int = 12, seed: int = 0) -> BlockProfile:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:k]
    variance = np.geomspace(9, 1, k)
    components = [
        ComponentResult(i, ComponentClass.NON_NEGOTIABLE, 0.3 - 0.05 * i, 0.1, 0.4, 50, 0.2, "all", i == 2)
        for i in range(k)
    ]
    components.append(ComponentResult(k, ComponentClass.DISCARDABLE, 0.0, -0.01, 0.004, 200, 0.01))
    return BlockProfile(
        block=f"model.layers.{index}",
        index=index,
        dim=dim,
        pooling="mean",
        positions="answer",
        pca=PCA(rng.normal(size=dim), basis, variance, 20.0, 900, "3 of 128 components: as the test wants it"),
        component_indices=tuple(range(k)),
        coords=rng.normal(size=(n, k)) * np.sqrt(variance),
        explained_variance=(0.45, 0.15, 0.05, 0.01),
        components=tuple(components),
        note="",
        tolerance=0.05 * index,
    )


def profile(teacher: str = "ada", capability: str = "math", **changes: object) -> CapabilityProfile:
    base = CapabilityProfile(
        teacher=teacher,
        weights_hash=hashlib.sha256(teacher.encode()).hexdigest(),
        capability=capability,
        metric="exact_answer",
        direction=Direction.HIGHER,
        baseline_score=0.9,
        n=12,
        seed=42,
        seconds=3.5,
        blocks=(block(2), block(10, k=2, seed=1)),
        heads=(HeadResult("model.layers.2", 0, 0.2, 0.1, 0.3), HeadResult("model.layers.2", 1, 0.0, -0.1, 0.1)),
        perturbations=(
            PerturbationResult("token_dropout", 0.1, None, 0.8, 0.1, 0.05, 0.15, 12),
            PerturbationResult("decoding", "temperature 0.7", None, 0.85, 0.05, 0.0, 0.1, 12),
        ),
        pilot={"model.layers.10": 0.4, "model.layers.2": 0.5},
        verify_outputs=(
            VerifyOutput("s1", "d1", "the answer is 4\u2028\n\ud800 ü", 1.0),
            VerifyOutput("s2", "d2", [1], 0.0),
        ),
        reconstruction=(
            ReconstructionResult("model.layers.2", 3, 0.9, 0.0, 0.01, 0.12, 2, -0.02, 0.03),
            ReconstructionResult(None, 5, 0.9, 0.0, 0.01, 0.12, 2),
        ),
        tokenizer={"class": "Tiny", "size": 64},
        notes=("2 samples were left out: no target",),
    )
    return replace(base, **changes)


def plan(of: CapabilityProfile) -> CapabilityPlan:
    thresholds = Thresholds(non_negotiable=0.02, recoverable=0.005)
    contract = Contract(of.capability, "pack", of.metric, of.direction, 0.97, None, 1, 512, thresholds)
    return plan_capability(of, contract, SETTINGS)


def put(store: ProfileStore, *profiles: CapabilityProfile) -> None:
    for each in profiles:
        store.write(each, plan(each))


def tree(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}
