"""`L_activation_anchor`: the adapter's coordinates z held to the teacher's, in protected subspaces only.

    L = alpha(step) * sum_b sum_i w_bi mean_n (z_bni - t_bni)^2 / sum_b sum_i w_bi
    w_bi = clamp(variance_bi / mean variance of block b) * max(1, critical_weight * importance_bi)

t are whitened coordinates, so before alpha 1 means that the student knows no more than the teacher's mean, whatever the
number of sites, channels and positions, and whichever teacher. The first factor of w lets strong directions lead, within
limits (in trials 0.3 to 3); the second lets those lead that have a reserved channel, by what their loss costs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from nexus_core.distill.batches import Batch
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.errors import UsageError


@dataclass(frozen=True, slots=True)
class AnchorSettings:
    """`alpha_hidden` falls linearly to `alpha_floor` over `anneal_steps`, and stays there."""

    critical_weight: float
    alpha_hidden: float
    alpha_floor: float
    anneal_steps: int
    variance_least: float
    variance_most: float

    def __post_init__(self) -> None:
        if self.critical_weight < 1 or not 0 <= self.alpha_floor <= self.alpha_hidden or self.anneal_steps < 0:
            raise UsageError(
                f"anchoring with critical_weight {self.critical_weight} and alpha from {self.alpha_hidden} to "
                f"{self.alpha_floor} in {self.anneal_steps} steps",
                "critical_weight is at least 1, and alpha does not rise",
            )
        if not 0 < self.variance_least <= self.variance_most:
            raise UsageError(
                f"variance weights from {self.variance_least} to {self.variance_most}", "0 < least <= most"
            )

    def alpha(self, step: int) -> float:
        """The weight of the whole term at one step."""
        if step >= self.anneal_steps:
            return self.alpha_floor
        return self.alpha_hidden + (self.alpha_floor - self.alpha_hidden) * max(step, 0) / self.anneal_steps


@dataclass(frozen=True, slots=True, eq=False)
class AnchorTerms:
    """`total` has a gradient. `blocks` are the weighted errors before alpha, in whitened units (1: no better than the
    mean); `errors` the anchor errors in the unit of `max_anchor_error`. Blocks without a known position are left out."""

    total: torch.Tensor
    alpha: float
    blocks: Mapping[int, torch.Tensor]
    errors: Mapping[int, torch.Tensor]


class ActivationAnchoringLoss(nn.Module):
    """`loss(z, batch, step)`; z are the bottlenecks' coordinates (N, rank) at the batch's answer positions, by block.

    >>> with student.recording() as seen:
    ...     student(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
    >>> terms = loss({block: z[batch.answer] for block, z in seen.items()}, batch, step)
    """

    def __init__(self, spaces: Sequence[AnchorSpace], settings: AnchorSettings) -> None:
        super().__init__()
        self.settings = settings
        self.spaces = {space.block: space for space in spaces if space.k}
        if len(self.spaces) < sum(space.k > 0 for space in spaces):
            raise UsageError("two anchored sites share a student block", "give each block one site of an adapter")
        for block, space in self.spaces.items():
            self.register_buffer(f"weight_{block}", _float32(self._weights(space)), persistent=False)
            share = space.variance / space.total_variance
            self.register_buffer(f"share_{block}", _float32(share), persistent=False)

    def _weights(self, space: AnchorSpace) -> np.ndarray:
        least, most = self.settings.variance_least, self.settings.variance_most
        relative = np.clip(space.variance / space.variance.mean(), least, most)
        weights: np.ndarray = relative * np.maximum(1.0, self.settings.critical_weight * space.importance)
        return weights

    def forward(self, z: Mapping[int, torch.Tensor], batch: Batch, step: int, boost: float = 1.0) -> AnchorTerms:
        """`boost` multiplies alpha: what recovery raises."""
        alpha = boost * self.settings.alpha(step)
        blocks: dict[int, torch.Tensor] = {}
        errors: dict[int, torch.Tensor] = {}
        weighted, weights = torch.zeros((), device=batch.labels.device), 0.0
        for block, space in self.spaces.items():
            squares = self._squares(z, batch, space)  # (k,)
            if squares is None:
                continue
            weight: torch.Tensor = getattr(self, f"weight_{block}")
            weighted = weighted + (weight * squares).sum()
            weights += float(weight.sum())
            blocks[block] = ((weight * squares).sum() / weight.sum()).detach()
            errors[block] = (getattr(self, f"share_{block}") * squares).sum().detach()
        return AnchorTerms(alpha * weighted / max(weights, 1e-12), alpha, blocks, errors)

    def _squares(self, z: Mapping[int, torch.Tensor], batch: Batch, space: AnchorSpace) -> torch.Tensor | None:
        """(k,): mean squared distance of each component over the positions where the teacher's is known."""
        if space.block not in batch.anchors:
            return None
        if space.block not in z:
            raise UsageError(
                f"no coordinates of student block {space.block}", "record the chosen adapter's bottlenecks"
            )
        target, has = batch.anchors[space.block]
        own = z[space.block]
        if own.ndim != 2 or len(own) != len(target) or own.shape[1] < space.k or target.shape[1] != space.k:
            raise UsageError(
                f"student block {space.block}: coordinates {tuple(own.shape)} and targets {tuple(target.shape)} for "
                f"{space.k} anchored components",
                "select the answer positions: z[batch.answer]; rows and loss must have the same spaces",
            )
        if not bool(has.any()):
            return None
        # A free channel (rank > k) is held to nothing.
        return (own[has, : space.k].float() - target[has]).square().mean(0)


def anchor_error(z: torch.Tensor, target: torch.Tensor, space: AnchorSpace) -> float:
    """|e|^2 / |x - mean|^2 of coordinates (N, k) against whitened targets (N, k): in the unit of `max_anchor_error`.

    e is the error in the teacher's own units, within the anchored directions: each whitened one times its standard
    deviation. |x - mean|^2 is the block's mean over all its directions, its total variance: profiling measured the limit
    by noise of that relative size.
    """
    share = _float32(space.variance / space.total_variance).to(z.device)
    return float((share * (z[:, : space.k].float() - target).square().mean(0)).sum())


def over_limit(errors: Mapping[int, float], spaces: Sequence[AnchorSpace]) -> dict[int, float]:
    """For the hard check: by how much each block's error is over what profiling measured as harmless (1: at the limit).

    Blocks within it are left out, and so are those without a measured limit. A limit of 0 is over it with any error.
    """
    limits = {space.block: space.max_error for space in spaces if space.max_error is not None}
    ratios = {b: e / limits[b] if limits[b] else float("inf") for b, e in errors.items() if b in limits and e > 0}
    return {block: ratio for block, ratio in ratios.items() if ratio > 1}


def _float32(values: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.asarray(values, np.float32))
