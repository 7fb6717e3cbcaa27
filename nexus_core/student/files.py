"""A whole student in a directory: the backbone as a plain checkpoint, each adapter in a file of its own.

backbone/     an ordinary Llama checkpoint with its tokenizer, which any tool of the field loads
adapters/     NAME.safetensors
towers/       NAME.safetensors: a tower with its ports, where it has any
router.safetensors, student_arch.json
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from nexus_core.atomic import make_directory, sync_directory, sync_tree, write_atomic, writing
from nexus_core.errors import DataError, ModelError
from nexus_core.hf.quiet import quiet
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.student.arch import ARCH, StudentArch, read_arch, write_arch
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter, load_router, save_router

BACKBONE, ROUTER = "backbone", "router.safetensors"
ADAPTERS, TOWERS, PART = "adapters", "towers", ".safetensors"
_AGAIN = "run `nexus distill` again"
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Student:
    """Everything that answers. `router` is None until it has been trained."""

    model: NexusForCausalLM
    tokenizer: Any
    arch: StudentArch
    router: SparseIntentRouter | None = None


def write_student(path: Path, student: Student) -> None:
    """Beside `path` first, then swapped in: whoever is killed meanwhile leaves the old student or the new one to read."""
    with writing(path):
        _write_beside(path, student)
        _swap_in(path)


def _write_beside(path: Path, student: Student) -> None:
    draft, _ = _beside(path)
    shutil.rmtree(draft, ignore_errors=True)  # what a killed writer left
    draft.mkdir(parents=True)
    with quiet():
        student.model.plain().save_pretrained(draft / BACKBONE)
    student.tokenizer.save_pretrained(draft / BACKBONE, save_jinja_files=False)
    for name in student.model.adapters:
        write_adapter(draft, student.model, name)
    for name in student.model.towers:
        _write_part(draft / TOWERS / f"{name}{PART}", _tower(student.model, name))
    if student.router is not None:
        save_router(student.router, draft / ROUTER)
    write_arch(draft / ARCH, student.arch)
    sync_tree(draft)


def _swap_in(path: Path) -> None:
    draft, old = _beside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)
        path.rename(old)
    draft.rename(path)
    sync_directory(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def write_adapter(path: Path, model: NexusForCausalLM, capability: str) -> None:
    """One adapter's file, and no other."""
    _write_part(path / ADAPTERS / f"{capability}{PART}", model.adapters[capability].state_dict())


def read_student(path: Path) -> Student:
    """What `write_student` wrote; anything missing or foreign is an error that names it."""
    _, old = _beside(path)
    if old.exists() and not path.exists():  # a writer was killed between moving the old one away and the new one in
        old.rename(path)
    if not path.is_dir():
        raise DataError(f"there is no student in {path}", "run `nexus distill` without --adapter first")
    arch = read_arch(path / ARCH)
    model = NexusForCausalLM.from_backbone(path / BACKBONE, arch)
    for name, adapter in model.adapters.items():
        _read_part(path / ADAPTERS / f"{name}{PART}", adapter.state_dict())
    for name in model.towers:
        _read_part(path / TOWERS / f"{name}{PART}", _tower(model, name))
    for folder, known in ((ADAPTERS, model.adapters), (TOWERS, model.towers)):
        if strangers := [file for file in sorted((path / folder).glob(f"*{PART}")) if file.stem not in known]:
            raise ModelError(f"{strangers[0]} is in no plan of this student", "take it out of there")
    router = load_router(path / ROUTER, arch.router) if (path / ROUTER).exists() else None
    return Student(model, load_tokenizer(path / BACKBONE), arch, router)


def _beside(path: Path) -> tuple[Path, Path]:
    """Where a student is while it is being written, and where the one before it is while they change places."""
    return path.with_name(f".{path.name}.draft"), path.with_name(f".{path.name}.old")


def _tower(model: NexusForCausalLM, name: str) -> dict[str, torch.Tensor]:
    """A tower's own weights and those of its ports, by the student's names."""
    state = model.state_dict()
    return {key: t for key, t in state.items() if key.startswith(f"towers.{name}.") or f".ports.{name}." in key}


def _write_part(path: Path, state: Tensors) -> None:
    make_directory(path.parent)
    write_atomic(path, save({name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}))


def _read_part(path: Path, own: Tensors) -> None:
    """Into the tensors of the student, which the file must fit in names, shapes and kinds."""
    try:
        state = load_file(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", _AGAIN) from error
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read: {error}", _AGAIN) from error
    wrong = sorted(set(own) ^ set(state)) or [
        name for name in own if (own[name].shape, own[name].dtype) != (state[name].shape, state[name].dtype)
    ]
    if wrong:
        raise ModelError(f"{path}: {wrong[0]} does not fit the student's plan", _AGAIN)
    if bad := [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]:
        raise ModelError(f"{path}: {bad[0]} holds NaN or infinity", _AGAIN)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])
