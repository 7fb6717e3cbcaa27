"""What the student is taught at each position of an answer, in its own tokens. Plain numpy.

Position j of an answer is the one whose logits predict answer token j: it lies at prompt length - 1 + j.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError

Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class SparseTargets:
    """A distributions over the student's tokens: some listed tokens, and the mass of all the others in one number.

    A distribution in this coarsened event space sums to 1. Where `has` is False nothing is known: the row is empty.
    """

    ids: NDArray[np.int32]  # (A, K), padded with -1
    log_probs: Floats  # (A, K), -inf where padded
    rest: Floats  # (A,) log of the mass of everything that is not listed
    has: NDArray[np.bool_]  # (A,)

    def __post_init__(self) -> None:
        n = len(self.has)
        if self.ids.shape != self.log_probs.shape or len(self.ids) != n or self.rest.shape != (n,):
            shapes = (self.ids.shape, self.log_probs.shape, self.rest.shape, self.has.shape)
            raise DataError(f"targets of {n} positions have the shapes {shapes}", "build them with Aligner.rows")

    def __len__(self) -> int:
        return len(self.has)

    @classmethod
    def none(cls, n: int) -> SparseTargets:
        """Nothing is known at any of `n` positions."""
        empty = np.zeros((n, 0), np.float32)
        return cls(empty.astype(np.int32), empty, np.full(n, -np.inf, np.float32), np.zeros(n, np.bool_))

    def part(self, rows: slice) -> SparseTargets:
        """Some of the positions."""
        return SparseTargets(self.ids[rows], self.log_probs[rows], self.rest[rows], self.has[rows])

    def mass(self) -> NDArray[np.float64]:
        """(A,) what the listed tokens and the rest sum to."""
        total: NDArray[np.float64] = np.exp(self.log_probs.astype(np.float64)).sum(1) + np.exp(self.rest)
        return total

    def entropy(self) -> Floats:
        """(A,) nats, over the listed tokens and the rest as one event; 0 where nothing is known."""
        events = np.concatenate([self.log_probs, self.rest[:, None]], 1).astype(np.float64)
        likely = np.exp(events)
        found = -(likely * np.where(likely > 0, events, 0)).sum(1)
        return np.where(self.has, np.maximum(found, 0), 0).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class AnchorTarget:
    """What one student block is held to, at the positions where something is known of the teacher."""

    values: Floats  # (A, k)
    has: NDArray[np.bool_]  # (A,)

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.has.shape != (len(self.values),):
            raise DataError(f"an anchor of shape {self.values.shape} for {self.has.shape}", "one row per answer token")

    @classmethod
    def none(cls, n: int, width: int) -> AnchorTarget:
        """Nothing is known at any of `n` positions."""
        return cls(np.zeros((n, width), np.float32), np.zeros(n, np.bool_))


@dataclass(frozen=True, slots=True, eq=False)
class TrainingRow:
    """One sample in the student's tokens. `anchors` are whitened coordinates by student block, `attention` likewise
    what attention anchoring compares; both may be empty, and `kl` may know nothing (the control without a teacher)."""

    digest: str  # of the sample
    prompt_ids: NDArray[np.int32]  # (P,)
    answer_ids: NDArray[np.int32]  # (A,) with the end token
    kl: SparseTargets
    entropy: Floats  # (A,) of the teacher, 0 where it is not known
    anchors: Mapping[int, AnchorTarget] = field(default_factory=dict)
    attention: Mapping[int, AnchorTarget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n = len(self.answer_ids)
        parts: list[Any] = [
            self.kl.has,
            self.entropy,
            *(t.has for t in (*self.anchors.values(), *self.attention.values())),
        ]
        if not n or not len(self.prompt_ids) or any(len(part) != n for part in parts):
            raise DataError(
                f"row of sample {self.digest[:12]}: {len(self.prompt_ids)} prompt tokens, {n} answer tokens and targets "
                f"of {sorted({len(part) for part in parts})}",
                "a row needs a prompt, an answer, and one target per answer token",
            )

    def __len__(self) -> int:
        """Tokens that the student reads: the last answer token is predicted, never read."""
        return len(self.prompt_ids) + len(self.answer_ids) - 1
