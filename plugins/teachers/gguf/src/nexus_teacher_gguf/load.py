"""Load a GGUF file: weights are dequantised, the tokenizer and the chat template come out of the same file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from nexus_core.errors import ModelError
from nexus_core.hf import HFTeacher, check_loaded, quiet
from nexus_core.types import Detection, LoadOptions, ModelSource


def load_gguf(source: ModelSource, options: LoadOptions, detection: Detection) -> HFTeacher:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if options.quantization is not None:
        raise ModelError(f"{source.path}: a GGUF file is quantised already", "leave --quantization out")
    dtype = torch.float32 if options.dtype == "auto" else getattr(torch, options.dtype)
    place = {"gguf_file": source.path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        with quiet(), _without_bar():
            model, report = AutoModelForCausalLM.from_pretrained(
                source.path.parent, dtype=dtype, output_loading_info=True, **place
            )
            tokenizer = AutoTokenizer.from_pretrained(source.path.parent, **place)
    except (OSError, ValueError, KeyError, RuntimeError, IndexError) as error:
        raise ModelError(
            f"{source.path}: transformers could not load it: {' '.join(str(error).split())[:300]}",
            "the file may be damaged, or of an architecture that transformers does not read from GGUF",
        ) from error
    return HFTeacher(source, detection, model.to(options.device), tokenizer, check_loaded(source.path, report))


@contextmanager
def _without_bar() -> Iterator[None]:
    """No progress bar of the dequantiser inside the block: it takes tqdm past the settings that `quiet` changes."""
    from transformers import modeling_gguf_pytorch_utils as dequantiser

    bar = dequantiser.tqdm
    dequantiser.tqdm = partial(bar, disable=True)
    try:
        yield
    finally:
        dequantiser.tqdm = bar
