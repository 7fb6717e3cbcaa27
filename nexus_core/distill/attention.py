"""`L_attention_anchor`: a student's heads look where the teacher's important heads look, and as firmly.

    L = beta(step) * sum_n m_n KL(m_n || q_n) / sum_n m_n
    KL(m || q) = m log(m / q) + (1 - m) log((1 - m) / (1 - q))

m is the teacher's mass on the token that its head attends to most (all that is known of it), q the student's mass on
its own tokens of the same bytes; both at the position that predicts the same text. Two events, "there" and "elsewhere": a
student with the teacher's mass there has 0, and where it looks elsewhere is its own affair. Firm heads (m near 1) count
most; one that spreads its attention says little by its largest place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from nexus_core.distill.attention_targets import HeadMap
from nexus_core.distill.batches import Batch
from nexus_core.distill.looks import Look
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
    """`loss(looks, batch, step)`; the looks are what it `asks` of the mapped blocks' self-attention, and were answered.

    >>> looks = loss.asks(batch)
    >>> with attention_by(student, TAUGHT), looking(student, looks):
    ...     student(input_ids=batch.input_ids)
    >>> terms = loss(looks, batch, step)
    """

    def __init__(self, mapping: HeadMap, settings: AttentionSettings) -> None:
        super().__init__()
        self.settings = settings
        self.heads = {block: [head.head for head in heads] for block, heads in mapping.items() if heads}

    def asks(self, batch: Batch) -> dict[int, Look]:
        """Where the mapped heads look from the answer positions that have a target, by block; those without are left out."""
        rows, places = batch.answer.nonzero(as_tuple=True)
        held = {block: batch.attention[block][1] for block in self.heads if block in batch.attention}
        return {
            block: Look(self.heads[block], rows[has], places[has]) for block, has in held.items() if bool(has.any())
        }

    def forward(self, looks: Mapping[int, Look], batch: Batch, step: int, boost: float = 1.0) -> AttentionTerms:
        """`boost` multiplies beta: what recovery raises."""
        beta = boost * self.settings.at(step)
        summed, firm = torch.zeros((), device=batch.labels.device), torch.zeros((), device=batch.labels.device)
        blocks: dict[int, torch.Tensor] = {}
        for block, look in looks.items():
            divergence, mass = self._divergences(block, look, batch)
            total, known = (mass * divergence).sum(), mass.sum()
            summed, firm = summed + total, firm + known
            blocks[block] = (total / known).detach()
        return AttentionTerms(beta * summed / firm.clamp(min=TINY), beta, blocks)

    def _divergences(self, block: int, look: Look, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """KL and the teacher's mass, (N, H) each."""
        values, has = batch.attention[block]
        if look.weights is None:
            raise UsageError(f"student block {block} did not say where it looks", "run it under `looking`")
        if values.shape[1] != 3 * len(look.heads):
            raise UsageError(
                f"student block {block}: targets {tuple(values.shape)} for the heads {list(look.heads)}",
                "rows and loss must have the same mapping of heads",
            )
        start, stop, mass = values[has].chunk(3, dim=1)  # (N, H) each
        return two_event_kl(look.weights, start, stop, mass), mass


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
