"""Small profiles made by hand and stored by the real ProfileStore, a registry of a few rows, a backbone's config.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nexus_core.architect.architect import Architect
from nexus_core.architect.presets import load_presets
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.registry import Registry, load_registry
from nexus_core.resources import shared_path

SAMPLES = 40
BACKBONE = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "dtype": "bfloat16",
    "transformers_version": "5.23.0",
    "vocab_size": 300,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
}


def block(index: int, k: int, proven: int, dim: int = 48, seed: int = 0) -> BlockProfile:
    """A block that protects k directions, of which some are proven and the others are so by caution."""
    rng = np.random.default_rng(seed + index)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:k]
    components = [
        ComponentResult(i, ComponentClass.NON_NEGOTIABLE, 0.2, 0.1, 0.3, 50, 1 / max(k, 1), undecided=i >= proven)
        for i in range(k)
    ]
    return BlockProfile(
        block=f"model.layers.{index}",
        index=index,
        dim=dim,
        pooling="tokens",
        positions="answer",
        pca=PCA(rng.normal(size=dim), basis, np.geomspace(4, 1, k) if k else np.zeros(0), 9.0, 900, ""),
        component_indices=tuple(range(k)),
        coords=rng.normal(size=(SAMPLES, k)),
        explained_variance=(0.5, 0.2),
        components=tuple(components),
        note="",
        tolerance=0.1,
    )


def weights_of(teacher: str) -> str:
    return hashlib.sha256(teacher.encode()).hexdigest()


@dataclass
class Bench:
    """A run with profiles, and the architect that reads them."""

    run: Path
    registry: Registry
    file: Path | None = None
    written: dict[tuple[str, str], CapabilityProfile] = field(default_factory=dict)

    @property
    def store(self) -> ProfileStore:
        return ProfileStore(self.run / "niwt_stage2_output")

    @property
    def architect(self) -> Architect:
        return Architect(self.store, self.registry, load_presets(self.file))

    def profile(self, teacher: str, capability: str, *blocks: BlockProfile, depth: int = 4, **changes: object) -> None:
        contract = self.registry.contract(capability)
        made = CapabilityProfile(
            teacher=teacher,
            weights_hash=weights_of(teacher),
            capability=capability,
            metric=contract.metric,
            direction=contract.direction,
            baseline_score=0.9,
            n=200 + SAMPLES,
            seed=42,
            seconds=1.0,
            blocks=blocks or (block(1, 10, 6), block(2, 8, 4), block(3, 6, 3)),
            pilot={f"model.layers.{i}": 0.1 for i in range(depth)},
            verify_outputs=tuple(VerifyOutput(f"s{i}", f"d{i}", "yes", 1.0) for i in range(SAMPLES)),
            tokenizer={"class": "Tiny", "size": 64},
        )
        made = replace(made, **changes)
        checks = tuple(ReconstructionResult(b.block, b.pca.k, 0.9, 0.0, 0.01, 0.1, SAMPLES) for b in made.blocks)
        made = replace(made, reconstruction=checks)
        self.store.write(made, plan_capability(made, contract, PlanSettings.of(self.registry.profiling)))
        self.written[teacher, capability] = made


ROWS = """
teachers:
  ada: {name: Ada, parameters: 60K, category: LM, best_feature: x, tower: text, capabilities: [reasoning, code],
        path: null, license: MIT}
  bob: {name: Bob, parameters: 90K, category: LM, best_feature: x, tower: text, capabilities: [reasoning, code, tools],
        path: null, license: MIT}
  cyd: {name: Cyd, parameters: 70K, category: LM, best_feature: x, tower: text, capabilities: [tools],
        path: null, license: MIT}
  eve: {name: Eve, parameters: 1.5M, category: TTS, best_feature: x, tower: voice, capabilities: [voice],
        path: null, license: MIT}
  fay: {name: Fay, parameters: Not specified, category: LM, best_feature: x, tower: text, capabilities: [code],
        path: null, license: MIT}
  dan: {name: Dan, parameters: 50K, category: LM, best_feature: x, tower: text, capabilities: [uncensored],
        path: null, license: MIT}
  zoo-backbone: {name: Base, parameters: 50K, category: LM, best_feature: x, tower: text, role: backbone,
        capabilities: [], path: backbone, license: MIT}
"""


def save_backbone(directory: Path, **changes: object) -> Path:
    """A directory as a checkpoint leaves it; only its configuration is ever read."""
    directory.mkdir(parents=True, exist_ok=True)
    values = {key: value for key, value in {**BACKBONE, **changes}.items() if value is not None}
    (directory / "config.json").write_text(json.dumps(values))
    save_file({"w": torch.zeros(2, 3), "v": torch.zeros(5)}, directory / "model.safetensors")
    return directory


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """The thresholds, towers and capabilities that ship, and a few teachers of the test."""
    save_backbone(tmp_path / "backbone")
    shipped = shared_path("registry.yaml").read_text(encoding="utf-8")
    path = tmp_path / "registry.yaml"
    path.write_text(shipped[: shipped.index("\nteachers:\n")] + ROWS, encoding="utf-8")
    return load_registry(path)


@pytest.fixture
def bench(tmp_path: Path, registry: Registry) -> Bench:
    return Bench(tmp_path / "run", registry)


@pytest.fixture
def make_block() -> Callable[..., BlockProfile]:
    return block


@pytest.fixture
def make_backbone() -> Callable[..., Path]:
    return save_backbone
