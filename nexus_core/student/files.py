"""A whole student in a directory: the backbone as a plain checkpoint, each adapter in a file of its own.

backbone/     an ordinary Llama checkpoint with its tokenizer, which any tool of the field loads
adapters/     NAME.safetensors
router.safetensors, student_arch.json
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save

from nexus_core.atomic import sync_directory, write_atomic
from nexus_core.errors import DataError, ModelError
from nexus_core.hf.quiet import quiet
from nexus_core.student.arch import StudentArch, read_arch, write_arch
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter, load_router, save_router

ARCH, BACKBONE, ADAPTERS, ROUTER = "student_arch.json", "backbone", "adapters", "router.safetensors"


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """Everything that answers. `router` is None until it has been trained."""

    model: NexusForCausalLM
    tokenizer: Any
    arch: StudentArch
    router: SparseIntentRouter | None = None


def write_student(path: Path, student: Student) -> None:
    """Beside `path` first, then swapped in: there is always a whole student there, or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft, old = path.with_name(f".{path.name}.{os.getpid()}"), path.with_name(f".{path.name}.old.{os.getpid()}")
    (draft / ADAPTERS).mkdir(parents=True)
    with quiet():
        student.model.plain().save_pretrained(draft / BACKBONE)
    student.tokenizer.save_pretrained(draft / BACKBONE, save_jinja_files=False)
    for name in student.model.adapters:
        write_adapter(draft, student.model, name)
    if student.router is not None:
        save_router(student.router, draft / ROUTER)
    write_arch(draft / ARCH, student.arch)
    if path.exists():
        path.rename(old)
    draft.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_adapter(path: Path, model: NexusForCausalLM, capability: str) -> None:
    """One adapter's file, and no other."""
    state = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.adapters[capability].state_dict().items()
    }
    write_atomic(path / ADAPTERS / f"{capability}.safetensors", save(state))


def read_student(path: Path) -> Student:
    """What `write_student` wrote; anything missing or foreign is an error that names it."""
    from transformers import AutoTokenizer

    arch = read_arch(path / ARCH)
    model = NexusForCausalLM.from_backbone(path / BACKBONE, arch)
    for name in model.adapters:
        _read_adapter(path / ADAPTERS / f"{name}.safetensors", model.adapters[name])
    with quiet():
        tokenizer = AutoTokenizer.from_pretrained(path / BACKBONE, local_files_only=True, trust_remote_code=False)
    router = load_router(path / ROUTER, arch.router) if (path / ROUTER).exists() else None
    return Student(model, tokenizer, arch, router)


def _read_adapter(path: Path, adapter: Any) -> None:
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "run `nexus distill` again") from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "run `nexus distill` again") from error
    own = adapter.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise ModelError(f"{path}: {wrong[0]} does not fit the planned adapter", "run `nexus distill` again")
    adapter.load_state_dict(state)
