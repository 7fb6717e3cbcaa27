"""Prompts read once, answers many times: keys and values of a batch of prompts, shared by every continuation of them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import DynamicCache, DynamicLayer


@dataclass(frozen=True, slots=True)
class Prefix:
    """A batch of prompts without their last tokens, as the model remembers them."""

    cache: DynamicCache
    mask: torch.Tensor  # (s, Tp), left-padded
    last: list[int]  # the last token of each prompt

    @property
    def row_bytes(self) -> int:
        """What one row costs in a continuation."""
        kept = [tensor for layer in self.cache.layers for tensor in (layer.keys, layer.values)]
        return int(sum(tensor.numel() * tensor.element_size() for tensor in kept)) // len(self.last)


@torch.inference_mode()
def prefill(model: Any, batch: Mapping[str, torch.Tensor]) -> Prefix | None:
    """Read all but the last position of left-padded prompts. None where memory is not plain keys and values."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    if ids.shape[1] < 2 or "past_key_values" not in _parameters(model):
        return None
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, :-1]
    more = {"position_ids": positions} if "position_ids" in _parameters(model) else {}
    output = model(input_ids=ids[:, :-1], attention_mask=mask[:, :-1], use_cache=True, **more)
    cache = getattr(output, "past_key_values", None)
    if not isinstance(cache, DynamicCache) or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None  # a convolution, a state space or a window: several tokens at once do not continue those alike
    return Prefix(cache, mask[:, :-1], ids[:, -1].tolist())


@torch.inference_mode()
def continue_with(
    model: Any, prefix: Prefix, copies: int, answers: Sequence[Sequence[int]], pad: int
) -> tuple[dict[str, Any], torch.Tensor]:
    """Inputs of `copies` times every answer after its prompt, and the mask (copies * s, T) of the answer positions.

    Row c * s + i is answer i. Position t reads the token before answer token t, so its logits predict that one.
    """
    longest = max(len(answer) for answer in answers)
    rows = [[last, *answer[:-1]] for last, answer in zip(prefix.last, answers, strict=True)]
    device = prefix.mask.device
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows], device=device)  # (s, T), right-padded
    valid = torch.tensor([[t < len(row) for t in range(longest)] for row in rows], device=device)
    mask = torch.cat([prefix.mask, valid.to(prefix.mask)], dim=1)
    batch: dict[str, Any] = {"input_ids": ids.repeat(copies, 1), "attention_mask": mask.repeat(copies, 1)}
    if "position_ids" in _parameters(model):
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0)[:, -longest:]
        batch["position_ids"] = positions.repeat(copies, 1)
    cache = copy.deepcopy(prefix.cache)
    cache.batch_select_indices(torch.arange(len(rows), device=device).repeat(copies))
    return {**batch, "past_key_values": cache, "use_cache": True}, valid.repeat(copies, 1)


def _parameters(model: Any) -> Mapping[str, Any]:
    import inspect

    return inspect.signature(model.forward).parameters
