"""A plain checkpoint: `LlamaForCausalLM` and its tokenizer, with one capability in its weights or with none."""

from __future__ import annotations

from pathlib import Path

from nexus_core.bundle.export.files import read_checkpoint, rounded, write_checkpoint
from nexus_core.bundle.export.plain import as_plain
from nexus_core.hf.text import TextModel
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.student.files import Student


def write_hf(path: Path, student: Student, capability: str | None, dtype: str, allow_isolated: bool = False) -> None:
    """Into the directory `path`."""
    model = rounded(as_plain(student.model, capability, allow_isolated), dtype)
    write_checkpoint(path, model, student.tokenizer)


def read_hf(path: Path) -> TextModel:
    """What was written, by transformers alone: its own Llama, its own `generate`."""
    return TextModel(read_checkpoint(path), load_tokenizer(path), "the export")
