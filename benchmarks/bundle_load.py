"""How long a bundle takes to open, beside reading the same bytes with safetensors and hashing them.

    python benchmarks/bundle_load.py [--layers 12] [--repeats 5]

A random Llama of some hundred million parameters in fp32 and in fp16. Both sides are timed in turn, in one process, from a
warm file cache; a bundle's time is `open_bundle` and `model` with weights as they are stored, so it includes all checks.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from nexus_core.bundle.manifest import BACKBONE, OptionFacts, ResultFacts
from nexus_core.bundle.reader import open_bundle
from nexus_core.bundle.writer import BundleParts, CapabilityParts, write_files
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import Contract, Direction, Thresholds

MOST = 1.5  # times the peer


def large_student(layers: int) -> Student:
    backbone: dict[str, Any] = {
        "vocab_size": 32_000,
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "tie_word_embeddings": True,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    adapter = AdapterArch("reasoning", "text", "none", (Site(0, 64, "a"),), 8, ("q_proj", "down_proj"))
    router = RouterArch(("reasoning",), 64, 4, 1)
    arch = StudentArch(1, "benchmark", 42, backbone, "random", (adapter,), (), router, ())
    return Student(NexusForCausalLM.from_backbone(None, arch), byte_tokenizer(), arch)


def write(folder: Path, student: Student, kind: str) -> Path:
    contract = Contract("reasoning", "own", "exact", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.1, 0.05))
    parts = CapabilityParts(contract, ResultFacts(1.0, 1.0, 1.0, 1, None, "pass"), OptionFacts(16, ()))
    write_files(folder, BundleParts(student, {"reasoning": parts}, {"verdict": "pass"}, quantisation=kind))
    return folder


def peer(folder: Path) -> None:
    """The same tensors with safetensors, and the hash of the same bytes."""
    for path in sorted(folder.rglob("*.safetensors")):
        load_file(path)
        with path.open("rb") as file:
            digest = sha256()
            while block := file.read(1 << 20):
                digest.update(block)


def timed(what: Callable[[], object]) -> float:
    started = time.perf_counter()
    what()
    return time.perf_counter() - started


def compare(folder: Path, dtype: torch.dtype, repeats: int) -> float:
    ours, theirs = [], []
    for _ in range(repeats + 1):  # the first of each warms the file cache
        theirs.append(timed(lambda: peer(folder)))
        ours.append(timed(lambda: open_bundle(folder).model(dtype=dtype)))
    ours, theirs = ours[1:], theirs[1:]
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors"))
    ratio = statistics.median(ours) / statistics.median(theirs)
    shown = [f"{statistics.median(found):.2f} s ({min(found):.2f} to {max(found):.2f})" for found in (theirs, ours)]
    kind, limit = str(dtype).removeprefix("torch."), f"at most {MOST}"
    print(
        f"{kind} {size / 1e6:.0f} MB: safetensors + SHA-256 {shown[0]}, bundle {shown[1]}, ratio {ratio:.2f} ({limit})"
    )
    return ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    student = large_student(given.layers)
    print(f"{student.model.num_parameters() / 1e6:.0f} million parameters, {torch.get_num_threads()} threads")
    with tempfile.TemporaryDirectory() as folder:
        whole, half = (write(Path(folder) / kind, student, kind) for kind in ("fp32", "fp16"))
        ratios = [compare(whole, torch.float32, given.repeats), compare(half, torch.float16, given.repeats)]
        assert (whole / BACKBONE).is_file()
    if max(ratios) > MOST:
        raise SystemExit(f"slower than {MOST} times the peer")


if __name__ == "__main__":
    main()
