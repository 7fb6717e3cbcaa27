"""`L_attention_anchor`: a student's heads look where the teacher's important heads look, and as firmly.

    L = beta(step) * sum_n m_n KL(m_n || q_n) / sum_n m_n
    KL(m || q) = m log(m / q) + (1 - m) log((1 - m) / (1 - q))

m is the teacher's mass on the token that its head attends to most (all that is known of it), q the student's mass on
its own tokens of the same bytes; both at the position that predicts the same text. Two events, "there" and "elsewhere": a
student with the teacher's mass there has 0, and where it looks elsewhere is its own affair. Firm heads (m near 1) count
most; one that spreads its attention says little by its largest place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nexus_core.distill.attention_targets import HeadMap
from nexus_core.distill.batches import Batch
from nexus_core.errors import UsageError

TINY = 1e-12  # of a mass: keeps the log finite, and lies far below what a softmax gives where its gradient still counts


@dataclass(frozen=True, slots=True)
class AttentionSettings:
    """`beta` falls linearly to `beta_floor` over `anneal_steps`, and stays there."""

    beta: float
    beta_floor: float
    anneal_steps: int

    def __post_init__(self) -> None:
        if not 0 <= self.beta_floor <= self.beta or self.anneal_steps < 0:
            raise UsageError(
                f"attention anchoring with beta from {self.beta} to {self.beta_floor} in {self.anneal_steps} steps",
                "beta is not negative, and does not rise",
            )

    def at(self, step: int) -> float:
        """The weight of the whole term at one step."""
        if step >= self.anneal_steps:
            return self.beta_floor
        return self.beta + (self.beta_floor - self.beta) * max(step, 0) / self.anneal_steps


@dataclass(frozen=True, slots=True, eq=False)
class AttentionTerms:
    """`total` has a gradient. `blocks` are the divergences before beta in nats; blocks without a target are left out."""

    total: torch.Tensor
    beta: float
    blocks: Mapping[int, torch.Tensor]


class AttentionAnchoringLoss(nn.Module):
    """`loss(weights, batch, step)`; weights (B, heads, T, T) are those of the mapped blocks' self-attention.

    >>> with eager_attention(student):  # once around the training: fused kernels form no weights
    ...     with recording_attention(student, loss.blocks) as weights:
    ...         student(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    ...     terms = loss(weights, batch, step)
    """

    def __init__(self, mapping: HeadMap, settings: AttentionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.heads = {block: [head.head for head in heads] for block, heads in mapping.items() if heads}

    @property
    def blocks(self) -> tuple[int, ...]:
        """The student blocks whose weights it needs."""
        return tuple(self.heads)

    def forward(
        self, weights: Mapping[int, torch.Tensor], batch: Batch, step: int, boost: float = 1.0
    ) -> AttentionTerms:
        """`boost` multiplies beta: what recovery raises."""
        beta = boost * self.settings.at(step)
        summed, firm = torch.zeros((), device=batch.labels.device), torch.zeros((), device=batch.labels.device)
        blocks: dict[int, torch.Tensor] = {}
        for block, heads in self.heads.items():
            if block not in batch.attention or not bool(batch.attention[block][1].any()):
                continue
            divergence, mass = self._divergences(block, heads, weights, batch)
            total, known = (mass * divergence).sum(), mass.sum()
            summed, firm = summed + total, firm + known
            blocks[block] = (total / known).detach()
        return AttentionTerms(beta * summed / firm.clamp(min=TINY), beta, blocks)

    def _divergences(
        self, block: int, heads: Sequence[int], weights: Mapping[int, torch.Tensor], batch: Batch
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """KL and the teacher's mass, (N', H) each, at the answer positions where any head has a target."""
        values, has = batch.attention[block]
        if block not in weights:
            raise UsageError(f"no attention weights of student block {block}", "use recording_attention")
        own = weights[block]
        if own.ndim != 4 or own.shape[1] <= max(heads) or values.shape[1] != 3 * len(heads):
            raise UsageError(
                f"student block {block}: attention weights {tuple(own.shape)} and targets {tuple(values.shape)} for "
                f"the heads {list(heads)}",
                "rows and loss must have the same mapping of heads",
            )
        rows, places = batch.answer.nonzero(as_tuple=True)
        looks = own[rows[has], :, places[has]][:, list(heads)].float()  # (N', H, T)
        start, stop, mass = values[has].chunk(3, dim=1)  # (N', H) each
        return two_event_kl(looks, start, stop, mass), mass


def two_event_kl(looks: torch.Tensor, start: torch.Tensor, stop: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
    """(N, H): KL of (mass, 1 - mass) to what `looks` (N, H, T) puts inside and outside [start, stop).

    Both sums are taken on their own: the difference of cumulative sums would lose a small mass to rounding, and with it
    the gradient that a head needs which looks elsewhere.
    """
    keys = torch.arange(looks.shape[-1], device=looks.device)
    inside = (keys >= start.unsqueeze(-1)) & (keys < stop.unsqueeze(-1))  # (N, H, T)
    there = looks.masked_fill(~inside, 0).sum(-1).clamp(min=TINY)
    elsewhere = looks.masked_fill(inside, 0).sum(-1).clamp(min=TINY)
    known = torch.xlogy(mass, mass) + torch.xlogy(1 - mass, 1 - mass)
    return known - mass * there.log() - (1 - mass) * elsewhere.log()


@contextmanager
def recording_attention(student: Any, blocks: Sequence[int]) -> Iterator[dict[int, torch.Tensor]]:
    """Inside, each forward pass leaves the weights (B, heads, T, T) of these blocks' self-attention here.

    A hook costs what `output_attentions=True` costs, and keeps the weights of these blocks alone.
    """
    seen: dict[int, torch.Tensor] = {}
    handles = [student.model.layers[block].self_attn.register_forward_hook(_keep(seen, block)) for block in blocks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _keep(seen: dict[int, torch.Tensor], block: int) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if output[1] is None:
            raise UsageError(
                f"the attention of student block {block} forms no weights",
                "train under nexus_core.hf.attention.eager_attention(student)",
            )
        seen[block] = output[1]

    return hook
