"""The shape of what is not listed: a corpus average that all tokens of a unit share.

A uniform tail gives a token that hardly ever appears as much probability as a common one. The average of the teacher's
own tails over some text knows better, costs one byte per vocabulary entry once, and is the distribution that minimises
the mean KL among all that are the same for every token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError

Floats = NDArray[np.float32]

_HEAD = 16  # entries that nearly every token lists, so that they say nothing about tails
_PRIOR = 16.0  # tokens' worth of uniform mass: keeps every logarithm finite, fades as text is seen


@dataclass(frozen=True, slots=True, eq=False)
class TailShape:
    """Log-probabilities of a shared tail, `-step * levels`, up to a constant. `levels` is (V,) uint8."""

    levels: NDArray[np.uint8]
    step: float

    def __post_init__(self) -> None:
        if self.levels.ndim != 1 or self.levels.dtype != np.uint8 or not 0 <= self.step < 1:
            raise DataError(
                f"a tail shape has uint8 levels of one dimension and a step below 1, not {self.levels.dtype} "
                f"{self.levels.shape} and {self.step}",
                "build it with TailAverage",
            )

    @property
    def log_weights(self) -> Floats:
        """(V,) natural logarithms, not normalised."""
        return -np.float32(self.step) * self.levels.astype(np.float32)

    @property
    def nbytes(self) -> int:
        return self.levels.nbytes + 8

    def same_as(self, other: TailShape | None) -> bool:
        return other is not None and self.step == other.step and np.array_equal(self.levels, other.levels)


class TailAverage:
    """Averages tails over some of the teacher's tokens (a few hundred do); memory is one vocabulary.

    >>> average = TailAverage(vocabulary)
    >>> average.add(log_probs)  # (T, V)
    >>> codec = LogitCodec(vocabulary, average.shape())
    """

    def __init__(self, vocabulary: int) -> None:
        self._sum = np.zeros(vocabulary)
        self._tokens = 0

    def add(self, log_probs: Floats) -> None:
        """Count in the tails of `log_probs` (T, V), which are normalised."""
        tails = np.exp(log_probs)
        head = min(_HEAD, tails.shape[1] - 1)
        np.put_along_axis(tails, np.argpartition(-tails, head - 1, axis=1)[:, :head], 0, axis=1)
        self._sum += tails.sum(0, dtype=np.float64)
        self._tokens += len(tails)

    def shape(self) -> TailShape:
        """The average so far; uniform if nothing was counted in or no tail had any mass."""
        mass = self._sum.sum() or 1.0
        weights = self._tokens * self._sum / mass + _PRIOR / len(self._sum)  # (V,)
        depth = np.log(weights.max() / weights)  # (V,) 0 at the most probable
        step = float(depth.max() / 255)
        levels = np.rint(depth / (step or 1.0)).astype(np.uint8)
        return TailShape(levels, step)
