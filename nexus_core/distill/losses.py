"""`L_output`: cross-entropy on the teacher's answers and KL to its distributions, both 0 for a perfect student.

    ce   mean over answer positions of  log p_teacher(token) - log p_student(token)
    kl   T^2 * mean over answer positions of  weight(H) * KL(teacher_T || student_T)

The first is the excess of the student's cross-entropy over the teacher's own log-loss, where that is known: the same
gradient, and 0 for a student that says what the teacher says. The second lives in a coarsened event space: the listed
tokens, and "anything else" as one event. A temperature acts on the *events*, in the same way on both sides
(log-probabilities of events divided by T, then normalised): what the tail looks like inside is not known at T = 1, so
it is not known at another T, and a student that equals the teacher has exactly 0 at each. T^2 keeps the size of the
gradient (Hinton, Vinyals and Dean, 2015).

`weight(H)` is 0 up to `entropy_floor` nats of the teacher's entropy and 1 from `entropy_full` on, linear between: a
nearly certain distribution repeats what the answer's token says already, and at T > 1 drowns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.nn import functional

from nexus_core.distill.batches import Batch
from nexus_core.errors import UsageError

FLOOR = -1e4  # stands for log 0: its exponential is 0 at any temperature that makes sense, and 0 times it is 0, not NaN


@dataclass(frozen=True, slots=True, eq=False)
class OutputTerms:
    """`total` has a gradient and is scaled; the others are plain numbers per answer position, before weights and scale.

    `nll` is the cross-entropy itself: never negative, so that it can be watched for spikes, where `ce` may fall below 0.
    """

    total: torch.Tensor
    ce: torch.Tensor
    kl: torch.Tensor
    nll: torch.Tensor


@dataclass(frozen=True, slots=True)
class OutputLoss:
    """`loss(logits, batch)`, with the logits (N, V) of the batch's answer positions."""

    ce_weight: float
    kl_weight: float
    temperature: float
    entropy_floor: float
    entropy_full: float

    def __post_init__(self) -> None:
        if min(self.ce_weight, self.kl_weight) < 0 or self.ce_weight + self.kl_weight <= 0:
            raise UsageError(f"loss weights {self.ce_weight} and {self.kl_weight}", "none is negative, one is above 0")
        if not self.temperature > 0:
            raise UsageError(f"temperature {self.temperature} is not above 0", "use 1 for distributions as they are")
        if not 0 <= self.entropy_floor <= self.entropy_full:
            raise UsageError(
                f"entropy weights from {self.entropy_floor} to {self.entropy_full} nats", "0 <= floor <= full"
            )

    def __call__(
        self, logits: torch.Tensor, batch: Batch, scale: float = 1.0, positions: int | None = None
    ) -> OutputTerms:
        """`scale` is the capability's (see `capability_scales`). `positions` is what the means divide by: those of all
        batches that one step accumulates; this batch's by default."""
        n = max(1, batch.positions if positions is None else positions)
        logits = logits.float()
        nll = functional.cross_entropy(logits, batch.labels, reduction="none")  # (N,)
        ce = (nll + teacher_log_prob(batch)).sum() / n
        kl = self._divergence(logits, batch) / n
        total = scale * (self.ce_weight * ce + self.kl_weight * kl)
        return OutputTerms(total, ce.detach(), kl.detach(), nll.detach().sum() / n)

    def weights(self, batch: Batch) -> torch.Tensor:
        """(N,): how much each position's KL counts."""
        span = self.entropy_full - self.entropy_floor
        ramp = (batch.entropy - self.entropy_floor) / span if span > 0 else batch.entropy > self.entropy_floor
        return torch.where(batch.kl_has, ramp.float().clamp(0, 1), 0)

    def _divergence(self, logits: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Sum over positions of the weighted KL."""
        weight = self.weights(batch)
        chosen = weight.nonzero()[:, 0]  # the others carry nothing, and need not be computed
        if self.kl_weight == 0 or not len(chosen):
            return logits.new_zeros(())
        ids = batch.kl_ids[chosen]
        student = _tempered(event_log_probs(logits[chosen], ids), self.temperature)
        known = torch.cat([batch.kl_log_probs[chosen], batch.kl_rest[chosen, None]], 1).clamp(min=FLOOR)
        teacher = _tempered(known, self.temperature)
        kl = (teacher.exp() * (teacher - student)).sum(1)
        return self.temperature**2 * (weight[chosen] * kl).sum()


def teacher_log_prob(batch: Batch) -> torch.Tensor:
    """(N,): the teacher's log-probability of its own answer token, 0 where it is not known."""
    own = (batch.kl_ids == batch.labels[:, None]) & batch.kl_has[:, None]
    return torch.where(own, batch.kl_log_probs, 0).sum(1)


def event_log_probs(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """(N, K+1): log-probabilities of the listed tokens `ids` (-1: none), and of everything else as the last event."""
    size = logits.shape[1]
    log_probs = functional.pad(logits.log_softmax(1), (0, 1), value=FLOOR)  # (N, V+1): the last column is no token
    places = torch.where(ids >= 0, ids, size)
    rest = log_probs.scatter(1, places, FLOOR).logsumexp(1, keepdim=True)
    return torch.cat([log_probs.gather(1, places), rest.clamp(min=FLOOR)], 1)


def _tempered(events: torch.Tensor, temperature: float) -> torch.Tensor:
    return (events / temperature).log_softmax(1)


def capability_scales(first: Mapping[str, float]) -> dict[str, float]:
    """A scale for each capability, from the losses that the untrained student has on each: all then start at their mean.

    A teacher whose answers are long-winded or hard to guess has a larger loss, not a larger claim on the backbone.
    """
    if bad := [name for name, loss in first.items() if not 0 < loss < float("inf")]:
        raise UsageError(f'capability "{bad[0]}" starts at a loss of {first[bad[0]]}', "measure it on its own batches")
    mean = sum(first.values()) / max(1, len(first))
    return {name: mean / loss for name, loss in first.items()}
