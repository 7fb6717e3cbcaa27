"""Attention while a student is taught: the kernel that suits the length, and where a few heads look from a few positions.

Step by step (scores, softmax, sum) attention forms the weights of all positions, which costs the square of the length; a
fused kernel forms none. The anchoring needs those of the answer's positions only, so here they are formed apart, and a
row of a thousand tokens takes a third of the time. Rows of a batch are padded on the right: what is causal needs no mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from nexus_core.errors import UsageError

TAUGHT = "nexus_taught"  # the implementation's name among those of transformers
SHORT = 256  # tokens up to which the steps are faster than the fused kernel in bf16 on a CPU (docs/log.md)


@dataclass(slots=True, eq=False)
class Look:
    """Asks where `heads` look from `places` of `rows`, (N) each and in the order of the rows. A forward pass answers with
    `weights` (N, heads, T)."""

    heads: Sequence[int]
    rows: torch.Tensor
    places: torch.Tensor
    weights: torch.Tensor | None = None


@contextmanager
def looking(student: Any, asked: Mapping[int, Look]) -> Iterator[None]:
    """Inside, forward passes answer what is asked of these blocks. The student's attention is `TAUGHT`."""
    modules = [student.model.layers[block].self_attn for block in asked]
    for module, look in zip(modules, asked.values(), strict=True):
        module.look = look
    try:
        yield
    finally:
        for module in modules:
            del module.look


def attend(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """What transformers calls: (B, H, T, e) to (B, T, H, e)."""
    scaling: float = given["scaling"]
    if attention_mask is not None or query.shape[2] != key.shape[2]:
        raise UsageError(
            "attention for teaching takes whole rows that are padded on the right, and no mask",
            "answer with another: student.set_attn_implementation('sdpa')",
        )
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    look: Look | None = getattr(module, "look", None)
    length = query.shape[2]
    if length <= SHORT and query.device.type == "cpu":
        scores = query @ key.transpose(2, 3) * scaling + _future(length, query.device)
        weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype)
        out = weights @ value
        if look is not None:
            look.weights = weights[look.rows, :, look.places][:, list(look.heads)].float()
    else:
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling)
        if look is not None:
            look.weights = _looks(look, query, key, scaling)
    return out.transpose(1, 2).contiguous(), None


def _looks(look: Look, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
    """(N, heads, T): row by row, since each has keys of its own."""
    heads, found = list(look.heads), []
    for row in sorted(set(look.rows.tolist())):
        places = look.places[look.rows == row]
        scores = query[row, heads][:, places] @ key[row, heads].transpose(1, 2) * scaling  # (heads, n, T)
        future = torch.arange(key.shape[2], device=key.device) > places[:, None]
        found.append(scores.float().masked_fill(future, -torch.inf).softmax(-1).transpose(0, 1))
    return torch.cat(found) if found else query.new_zeros((0, len(heads), key.shape[2]), dtype=torch.float32)


@lru_cache(maxsize=SHORT)
def _future(length: int, device: torch.device) -> torch.Tensor:
    """(T, T) to add to scores: nobody looks ahead."""
    return torch.full((length, length), -torch.inf, device=device).triu(1)


AttentionInterface.register(TAUGHT, attend)
AttentionMaskInterface.register(TAUGHT, sdpa_mask)
