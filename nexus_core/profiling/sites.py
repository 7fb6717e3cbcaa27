"""Where a block can be intervened upon: its output, the input of its attention's output projection, that of its MLP's.

Nothing is guessed from names of families. One recorded forward shows which linear maps ran inside a block and in which
order; the last one inside an attention module mixes the heads, the last one outside it closes the MLP.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nexus_core.errors import ModelError
from nexus_core.types import Teacher

# Path parts that mark an attention module; `crossattention`, `SelfAttention` and `attn` all match.
ATTENTION = re.compile(r"att(n|ention)", re.IGNORECASE)
HEAD_COUNTS = ("num_heads", "num_attention_heads", "n_heads", "n_head", "num_attn_heads")


@dataclass(frozen=True, slots=True)
class Projection:
    """A linear map back to the residual stream. Its input is `groups` slices of `size`: heads, or channels of an MLP."""

    name: str
    module: nn.Module
    groups: int
    size: int


@dataclass(frozen=True, slots=True)
class Site:
    """One block with everything in it that can be ablated, and why something cannot."""

    name: str
    index: int
    module: nn.Module
    width: int
    heads: tuple[Projection, ...]
    channels: Projection | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Call:
    """One linear map as it ran: which block, under which name, how wide its input and output were."""

    block: str
    name: str
    module: nn.Module
    inputs: int
    outputs: int


def find_sites(teacher: Teacher, batch: Mapping[str, torch.Tensor]) -> list[Site]:
    """The sites of every block, from one forward over `batch`."""
    calls, widths = _record(teacher, batch)
    return [
        _site(teacher, name, index, block, [call for call in calls if call.block == name], widths[name])
        for index, (name, block) in enumerate(teacher.blocks.items())
        if name in widths
    ]


def _record(teacher: Teacher, batch: Mapping[str, torch.Tensor]) -> tuple[list[_Call], dict[str, int]]:
    calls: list[_Call] = []
    widths: dict[str, int] = {}
    handles = []
    for block_name, block in teacher.blocks.items():
        handles.append(block.register_forward_hook(_width_into(widths, block_name)))
        for name, module in block.named_modules():
            weight = getattr(module, "weight", None)
            if isinstance(weight, torch.Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
                handles.append(module.register_forward_hook(_call_into(calls, block_name, name)))
    try:
        teacher.forward(batch)
    finally:
        for handle in handles:
            handle.remove()
    return calls, widths


def _width_into(widths: dict[str, int], name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        hidden = hidden_of(output)
        if not torch.isfinite(hidden).all():
            raise ModelError(
                f"{name}: its output holds NaN or infinity", "check the checkpoint, or load it in another dtype"
            )
        widths[name] = hidden.shape[-1]

    return hook


def _call_into(calls: list[_Call], block: str, name: str) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if args and isinstance(args[0], torch.Tensor) and isinstance(output, torch.Tensor):
            calls.append(_Call(block, name, module, args[0].shape[-1], output.shape[-1]))

    return hook


def _site(teacher: Teacher, name: str, index: int, block: nn.Module, calls: list[_Call], width: int) -> Site:
    back = [call for call in calls if call.outputs == width]
    notes: list[str] = []
    heads: dict[str, Projection] = {}
    for call in back:
        if (attention := _attention_of(call.name)) is not None:
            count = _head_count(block.get_submodule(attention), teacher.model)
            if count and call.inputs % count == 0:
                heads[attention] = Projection(call.name, call.module, count, call.inputs // count)
    if not heads:
        notes.append("no attention head can be ablated: no attention module with a projection back was executed")
    closing = [call for call in back if _attention_of(call.name) is None]
    channels = None
    if closing:
        last = closing[-1]
        channels = Projection(last.name, last.module, last.inputs, 1)
    else:
        notes.append(
            "no MLP channel can be ablated: no linear map back was executed outside attention (fused experts?)"
        )
    return Site(name, index, block, width, tuple(heads.values()), channels, tuple(notes))


def _attention_of(path: str) -> str | None:
    """The path of the attention module that a linear map belongs to, relative to the block."""
    parts = path.split(".")
    for end in range(len(parts) - 1, 0, -1):
        if ATTENTION.search(parts[end - 1]):
            return ".".join(parts[:end])
    return None


def self_attention(site: Site) -> tuple[nn.Module, int] | None:
    """The block's first attention module and its number of heads; a second one attends to another sequence."""
    if not site.heads:
        return None
    path = _attention_of(site.heads[0].name)
    assert path is not None  # a projection of heads was found inside one
    return site.module.get_submodule(path), site.heads[0].groups


def _head_count(attention: nn.Module, model: nn.Module) -> int | None:
    """From the attention module itself where it says so, else from the configuration."""
    config = getattr(attention, "config", None) or getattr(model, "config", None)
    for holder in (attention, config):
        for name in HEAD_COUNTS:
            if isinstance(count := getattr(holder, name, None), int):
                return count
    return None


def hidden_of(output: Any) -> torch.Tensor:
    """The residual stream in what a block returns: the tensor itself, or the first element of a tuple."""
    hidden: torch.Tensor = output[0] if isinstance(output, tuple | list) else output
    return hidden
