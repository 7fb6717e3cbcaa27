"""A student's backbone from checked tensors: built without weights first, so that nothing is drawn only to be replaced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig

from nexus_core.bundle.manifest import Quantisation
from nexus_core.bundle.quantise import ABSMAX, PACKED, unpack
from nexus_core.bundle.tensors import Tensors
from nexus_core.errors import ModelError
from nexus_core.hf.check import all_finite
from nexus_core.student import assemble
from nexus_core.student.arch import StudentArch
from nexus_core.student.model import NexusForCausalLM

_AGAIN = "get the bundle again from where it came"
_ENDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def empty_student(config: Mapping[str, Any], arch: StudentArch, stored: Tensors, where: Path) -> NexusForCausalLM:
    """A student on the meta device, if the configuration is the one that was planned, and a Llama's and no more.

    transformers would act on a key such as `_attn_implementation`, which can name code to fetch.
    """
    from huggingface_hub.errors import StrictDataclassError

    known = LlamaConfig().to_dict()
    if strangers := sorted({*config, *arch.backbone} - set(known)):
        raise ModelError(f"{where}: {strangers[0]!r} is no key of a Llama's configuration", _AGAIN)
    try:
        plain, planned = LlamaConfig(**config), LlamaConfig(**arch.backbone)
        for name in arch.backbone:
            if getattr(plain, name) != getattr(planned, name):
                raise ModelError(f"{where}: {name} is not the one that was planned", _AGAIN)
        check_size([plain.num_hidden_layers], 1, stored, where)
        with torch.device("meta"):
            model = NexusForCausalLM(assemble.config_from(plain))
    except (StrictDataclassError, ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise ModelError(f"{where}: no configuration of a Llama: {str(error)[:200]}", _AGAIN) from error
    model.generation_config = GenerationConfig(**{name: getattr(plain, name) for name in _ENDS})
    return model


def fill(model: NexusForCausalLM, stored: Tensors, how: Quantisation, dtype: torch.dtype, where: Path) -> None:
    """Give the model its weights. `stored` is emptied meanwhile, so that there are never two copies of all of them."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    packed = set(how.tensors)
    expected = {name for name in shapes if name not in packed} | {n + end for n in packed for end in (PACKED, ABSMAX)}
    if wrong := sorted(expected ^ set(stored)):
        raise ModelError(f"{where}: {wrong[0]} does not fit the student's plan", _AGAIN)
    state: Tensors = {}
    for name, shape in shapes.items():
        if name in packed:
            weight = unpack(name, stored, shape, how)
            del stored[name + PACKED], stored[name + ABSMAX]
        else:
            weight = stored.pop(name)
        if weight.shape != shape or not weight.is_floating_point():
            raise ModelError(f"{where}: {name} has another shape or kind than the student's", _AGAIN)
        state[name] = weight.to(dtype)
        # What is stored is finite, its reader has seen to it; another kind of number may be too small for it.
        if dtype not in (weight.dtype, torch.float32) and not all_finite(state[name]):
            raise ModelError(f"{where}: {name} holds NaN or infinity in {str(dtype).removeprefix('torch.')}", _AGAIN)
    model.load_state_dict(state, strict=False, assign=True)
    model.tie_weights()
    # The angles of RoPE are no weights: they are computed from the configuration, and stay in fp32.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config)


def check_size(counts: Sequence[int], width: int, stored: Tensors, where: Path) -> None:
    """Each of `counts` times `width` is above 0 and no more than all numbers of the file: before memory is taken for it."""
    room = sum(tensor.numel() for tensor in stored.values())
    if any(count < 1 or width < 1 or count * width > room for count in counts):
        raise ModelError(f"{where} does not fit the student's plan: it holds {room:,} numbers", _AGAIN)
