"""The proof that a bundle can be read: a process that has never seen the student reads it, and must find the same.

What is compared are the weights, bit for bit, and greedy answers to a few prompts, token for token.
`python -P -m nexus_core.bundle.golden` reads an order on stdin and writes what it found on stdout.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from nexus_core.errors import ModelError
from nexus_core.student.answer import StudentAnswerer
from nexus_core.student.files import Student
from nexus_core.types import GenerateOptions, Sample

Prompts = Mapping[str, Sequence[str]]
TOKENS = 48  # of each answer: enough to go wrong, few enough to wait for


def findings(student: Student, prompts: Prompts) -> dict[str, Any]:
    """Hashes of the parts' weights, and answers by capability."""
    state = student.model.state_dict()
    parts = {"the backbone": {name: t for name, t in state.items() if not name.startswith("adapters.")}}
    for name, adapter in student.model.adapters.items():
        parts[f'the adapter of "{name}"'] = dict(adapter.state_dict())
    if student.router is not None:
        parts["the router"] = dict(student.router.state_dict())
    return {
        "weights": {name: _hash(tensors) for name, tensors in parts.items()},
        "answers": {name: _answers(student, name, list(asked)) for name, asked in prompts.items()},
    }


def _hash(tensors: Mapping[str, torch.Tensor]) -> str:
    digest = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _answers(student: Student, capability: str, prompts: Sequence[str]) -> list[list[int]]:
    """One prompt at a time: no padding, whose rounding would differ with the batch."""
    answerer = StudentAnswerer(student.model, student.tokenizer, capability, allow_isolated=True)
    options = GenerateOptions(max_new_tokens=TOKENS)
    return [answerer.generate_tokens([Sample("golden", prompt, "")], options)[0] for prompt in prompts]


def check_reload(path: Path, expected: Student, prompts: Prompts) -> None:
    """`ModelError` unless a fresh process finds in the bundle what `expected` is."""
    order = json.dumps({"path": str(path), "prompts": {name: list(asked) for name, asked in prompts.items()}})
    command = [sys.executable, "-P", "-m", "nexus_core.bundle.golden"]
    ended = subprocess.run(command, input=order, capture_output=True, text=True, check=False)
    if ended.returncode:
        said = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise ModelError(
            f"the new bundle cannot be read back: {said[:500]}", "report this: what was written is at fault"
        )
    found, wanted = json.loads(ended.stdout), findings(expected, prompts)
    for part, digest in wanted["weights"].items():
        if found["weights"].get(part) != digest:
            raise ModelError(f"the new bundle cannot be read back: {part} comes out different", "report this")
    for name, answers in wanted["answers"].items():
        if found["answers"].get(name) != answers:
            raise ModelError(f'the new bundle answers differently with "{name}" when it is read back', "report this")


def main() -> None:
    """The fresh process."""
    from nexus_core.bundle.reader import open_bundle

    order = json.load(sys.stdin)
    student = open_bundle(Path(order["path"])).student()
    json.dump(findings(student, order["prompts"]), sys.stdout)


if __name__ == "__main__":
    main()
