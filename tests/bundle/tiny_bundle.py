"""A tiny student with random weights, three adapters (one isolated) and a router, and what makes a bundle of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nexus_core.bundle.manifest import (
    MANIFEST,
    FileFacts,
    Manifest,
    OptionFacts,
    ResultFacts,
    TeacherFacts,
    parse_manifest,
)
from nexus_core.bundle.writer import BundleParts, CapabilityParts, write_files
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch, TowerArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import Contract, Direction, Thresholds

BACKBONE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ADAPTERS = (
    AdapterArch("reasoning", "text", "ada", (Site(0, 4, "a"), Site(1, 5, "b")), 3, ("q_proj", "mlp.down_proj")),
    AdapterArch("tools", "text", "bob", (Site(1, 6, "c"),), 2, ("v_proj", "gate_proj")),
    AdapterArch("uncensored", "text", "cyd", (Site(0, 4, "d"),), 2, ("up_proj",), isolated=True),
)
PROMPTS = ("a", "one two three")


def planned(**backbone: Any) -> StudentArch:
    router = RouterArch(("reasoning", "tools"), 64, 4, 1)
    towers = (TowerArch("text", 16),)
    return StudentArch(1, "tiny", 42, {**BACKBONE, **backbone}, "random", ADAPTERS, towers, router, ())


def student(**backbone: Any) -> Student:
    """Its adapters as after some training."""
    arch = planned(**backbone)
    model = NexusForCausalLM.from_backbone(None, arch)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.adapters.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return Student(model, byte_tokenizer(), arch, SparseIntentRouter(arch.router).eval())


def contract_of(name: str) -> Contract:
    return Contract(name, "own", "exact_answer", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.1, 0.05))


def report() -> dict[str, Any]:
    """The part of a gate's report that a bundle compares itself with."""
    row = {
        "metric": "exact_answer",
        "benchmark": "own",
        "direction": "higher",
        "retain_fraction": 0.97,
        "minimum": None,
        "teacher_score": 0.9,
        "student_score": 0.89,
        "ratio": 0.9889,
        "n": 500,
        "ci95": [0.95, 1.02],
        "verdict": "pass",
    }
    rows = {arch.capability: dict(row) for arch in ADAPTERS}
    variants = {kind: {"verdict": "pass", "capabilities": rows} for kind in ("fp16", "int8", "nf4")}
    return {"verdict": "pass", "capabilities": rows, "variants": variants}


def parts(own: Student | None = None, **more: Any) -> BundleParts:
    result = ResultFacts(0.89, 0.9, 0.9889, 500, (0.95, 1.02), "pass")
    aliases = {"tools": ("agent",)}
    return BundleParts(
        student=own or student(),
        capabilities={
            arch.capability: CapabilityParts(
                contract_of(arch.capability), result, OptionFacts(24, ()), aliases.get(arch.capability, ()), PROMPTS
            )
            for arch in ADAPTERS
        },
        report=report(),
        teachers=(TeacherFacts("ada", "ab" * 32, "MIT", "distilled into reasoning"),),
        created_with={"nexus-core": "0.1.0"},
        **more,
    )


def make(folder: Path, own: Student | None = None, **more: Any) -> Path:
    """The files of a bundle, without the proof by a fresh process (which `write_bundle` adds)."""
    write_files(folder, parts(own, **more))
    return folder


def relist(folder: Path, change: Callable[[Manifest], Manifest] = lambda manifest: manifest) -> None:
    """Write the manifest anew, changed, with the hashes of the files as they are: as somebody with ill intent would."""
    from hashlib import sha256

    raw = (folder / MANIFEST).read_bytes()
    manifest = change(parse_manifest(raw, "here"))
    files = {
        name: FileFacts(sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for name in manifest.files
        for path in [folder / name]
    }
    (folder / MANIFEST).write_bytes(replace(manifest, files=files).to_bytes())


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the JSON of the manifest and write it in its canonical form, with the hash of what it now holds."""
    from nexus_core.bundle.manifest import canonical

    values = json.loads((folder / MANIFEST).read_bytes())
    change(values)
    values.pop("sha256", None)
    (folder / MANIFEST).write_bytes(canonical(values))
