"""Principal components of a stream of activations, in memory that does not grow with their number.

Up to `EXACT_DIM` the covariance itself is kept, in float64, and batches are merged by the pairwise update of Chan, Golub
and LeVeque (1979): the result is that of one SVD over all rows, whatever the order of the batches. Above it scikit-learn's
IncrementalPCA keeps a truncated, oversampled basis instead, because the covariance would no longer fit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class PCA:
    """Mean and leading principal directions of `n` rows; `basis` holds orthonormal rows, the strongest first.

    `total_variance` is that of all directions, kept or not. `note` says why there are fewer components than were asked for.
    """

    mean: Array  # (d,)
    basis: Array  # (k, d)
    variance: Array  # (k,)
    total_variance: float
    n: int
    note: str = ""

    @property
    def k(self) -> int:
        return int(self.basis.shape[0])

    @property
    def dim(self) -> int:
        return int(self.mean.shape[0])

    @property
    def fractions(self) -> Array:
        """Share of the total variance that each component explains: (k,)."""
        return self.variance / self.total_variance if self.total_variance > 0 else np.zeros_like(self.variance)

    def coordinates(self, rows: Any) -> Array:
        """Coordinates of (n, d) rows in the basis: (n, k)."""
        return (_float64(rows) - self.mean) @ self.basis.T

    def reconstruct(self, coords: Any) -> Array:
        """The rows (n, d) that have these coordinates (n, k): `mean + coords @ basis`."""
        return self.mean + _float64(coords) @ self.basis

    def select(self, indices: Sequence[int]) -> PCA:
        """The same PCA with only these components, in this order; none of them is a valid choice."""
        chosen = np.asarray(indices, dtype=np.intp)
        return replace(self, basis=self.basis[chosen], variance=self.variance[chosen])


def _float64(rows: Any) -> Array:
    """A float64 array of what may be a torch tensor of any dtype on any device."""
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu().double().numpy()
    return np.asarray(rows, dtype=np.float64)
