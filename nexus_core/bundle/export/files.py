"""What every export writes: beside its place first, a plain checkpoint, and a tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from nexus_core.atomic import check_writable, sync_directory, writing
from nexus_core.draft import drafted
from nexus_core.errors import ModelError, UsageError
from nexus_core.hf.quiet import quiet

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@contextmanager
def becoming(out: Path) -> Iterator[Path]:
    """A directory to write into. It becomes `out` when the block ends, and nothing is left when the block fails."""
    if out.exists():
        raise UsageError(f"{out} is there already", "name a directory that is not there yet")
    check_writable(out)
    with drafted(out) as draft:
        yield draft
        with writing(out):
            draft.rename(out)
            sync_directory(out.parent)


def rounded(model: LlamaForCausalLM, dtype: str) -> LlamaForCausalLM:
    """In the precision of the file; a weight that does not fit it is an error that names it."""
    model = model.to(DTYPES[dtype])
    model.config.dtype = DTYPES[dtype]
    if bad := [name for name, parameter in model.named_parameters() if not torch.isfinite(parameter).all()]:
        raise ModelError(f"{bad[0]} does not fit {dtype}", "export it with --dtype fp32")
    return model


def write_checkpoint(path: Path, model: LlamaForCausalLM, tokenizer: Any) -> None:
    """A directory that transformers, and whatever reads its checkpoints, loads without Nexus."""
    with quiet():
        model.save_pretrained(path)
    tokenizer.save_pretrained(path, save_jinja_files=False)


def read_checkpoint(path: Path) -> LlamaForCausalLM:
    """As a stranger reads it; it computes in fp32, as the student does."""
    with quiet():
        return LlamaForCausalLM.from_pretrained(
            path, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
        ).eval()
