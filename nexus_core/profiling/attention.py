"""Where the important heads look while they predict an answer, reduced to one place per head and token on the spot.

A full map of weights exists only inside the forward hook of its own block, and dies there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import nn

from nexus_core.errors import ModelError
from nexus_core.hf.attention import eager_attention
from nexus_core.profiling.cache import AttentionSummary, byte_offsets
from nexus_core.profiling.scoring import SAMPLES, Scorer
from nexus_core.profiling.sites import Site, find_sites, self_attention
from nexus_core.types import CapabilityMetric, Sample, Teacher

WEIGHTS_BUDGET = 64 << 20  # bytes of one block's weights, of which an eager softmax holds a few copies
Heads = Mapping[str, tuple[int, ...]]  # by block
_Seen = dict[str, tuple[np.ndarray, np.ndarray]]  # by block: (N, H) key positions, (N, H) masses


def missing_attention(teacher: Any, metric: CapabilityMetric, sample: Sample) -> str:
    """Why this teacher's heads cannot be summarised; empty if they can."""
    spans = getattr(teacher, "prompt_spans", None)
    if spans is None or spans([sample], metric.options) is None:
        return "its tokenizer does not say which characters a token is"
    batch = teacher.encode([sample])
    length = batch["input_ids"].shape[1]
    for site in find_sites(teacher, batch):
        if (found := self_attention(site)) is None:
            continue
        shapes: list[Any] = []
        hook = found[0].register_forward_hook(lambda module, args, out, into=shapes: into.append(_weights_of(out)))
        try:
            with eager_attention(teacher.model):
                teacher.forward(batch)
        finally:
            hook.remove()
        shape = None if shapes[0] is None else tuple(shapes[0].shape)
        if shape != (1, found[1], length, length):
            return f"{site.name} gives no attention weights of its {found[1]} heads"
    return ""


def attention_summaries(
    scorer: Scorer, heads: Heads, offsets: Sequence[np.ndarray]
) -> dict[str, dict[int, AttentionSummary]]:
    """By block and sample. `offsets` are the byte offsets of each answer's tokens; one forward reads all blocks."""
    found: dict[str, dict[int, AttentionSummary]] = {block: {} for block in heads}
    if not heads:
        return found
    everywhere = find_sites(scorer.teacher, scorer.teacher.encode(scorer.samples[:1]))
    sites = [site for site in everywhere if site.name in heads]
    prompts = scorer.teacher.prompt_spans(scorer.samples, scorer.options)
    with eager_attention(scorer.teacher.model):
        for chosen in _batches(scorer, sites):
            batch, mask = scorer.encode(chosen)
            for block, (places, mass) in _forward(scorer.teacher, batch, mask, sites, heads).items():
                end = 0
                for i, own in zip(chosen, mask, strict=True):
                    start, end = end, end + len(offsets[i])
                    table = _places(scorer.samples[i].prompt, prompts[i], offsets[i])
                    # The answer's first token stands after the position that predicts it, and the prompt before it.
                    shift = len(prompts[i]) - 1 - int(own.int().argmax())
                    spans = table[places[start:end] + shift]
                    found[block][i] = AttentionSummary.of(heads[block], spans, mass[start:end])
            scorer.heartbeat()
    return found


def _batches(scorer: Scorer, sites: Sequence[Site]) -> list[list[int]]:
    """Samples of like length together, as many as the weights of one block leave room for."""
    most = max((found[1] for site in sites if (found := self_attention(site)) is not None), default=1)
    order = sorted(
        range(len(scorer.samples)), key=lambda i: len(scorer.samples[i].prompt) + len(scorer.baseline.tokens[i])
    )
    batches: list[list[int]] = []
    start = 0
    while start < len(order):
        longest = order[min(start + SAMPLES, len(order)) - 1]
        length = scorer.encode([longest])[0]["input_ids"].shape[1]
        size = max(1, min(SAMPLES, WEIGHTS_BUDGET // (4 * most * length**2)))
        batches.append(order[start : start + size])
        start += size
    return batches


def _forward(
    teacher: Teacher, batch: Mapping[str, torch.Tensor], mask: torch.Tensor, sites: Sequence[Site], heads: Heads
) -> _Seen:
    seen: _Seen = {}
    with ExitStack() as stack:
        for site in sites:
            found = self_attention(site)
            if found is None:
                raise ModelError(f"{site.name} has no attention whose heads could be summarised", "profile it again")
            handle = found[0].register_forward_hook(_hook(site.name, heads[site.name], mask, seen))
            stack.callback(handle.remove)
        teacher.forward(batch)
    return seen


def _hook(block: str, heads: tuple[int, ...], mask: torch.Tensor, seen: _Seen) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        weights = _weights_of(output)
        if weights is None:
            raise ModelError(f"{block} gives no attention weights", "profile this teacher again, which will say so")
        of_answers = weights.transpose(1, 2)[mask][:, list(heads)]  # (B, H, T, T) -> (N, heads, T)
        mass, places = of_answers.float().max(-1)
        seen[block] = (places.cpu().numpy(), mass.cpu().numpy())

    return hook


def _weights_of(output: Any) -> torch.Tensor | None:
    """What an attention module returns beside its output, where that can be weights (B, H, T, T)."""
    weights = output[1] if isinstance(output, tuple | list) and len(output) > 1 else None
    return weights if isinstance(weights, torch.Tensor) and weights.ndim == 4 else None


def _places(prompt: str, characters: Sequence[tuple[int, int]], answer: np.ndarray) -> np.ndarray:
    """Byte spans (P + T, 2) in the full text of every token of a row: those of the prompt, then of the answer."""
    places = np.concatenate([byte_offsets(prompt, characters), answer + len(prompt.encode())])
    return places.astype(np.int64)
