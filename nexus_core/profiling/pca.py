"""Principal components of a stream of activations, in memory that does not grow with their number.

Up to `EXACT_DIM` the covariance itself is kept, in float64, and batches are merged by the pairwise update of Chan, Golub
and LeVeque (1979): the result is that of one SVD over all rows, whatever the order of the batches. Above it scikit-learn's
IncrementalPCA keeps a truncated, oversampled basis instead, because the covariance would no longer fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import NexusError

Array = NDArray[Any]
EXACT_DIM = 4096  # a float64 covariance of this size is 134 MB; solving for its directions takes as much again
CHUNK_VALUES = 1 << 22  # values converted to float64 at a time (32 MB), whatever the size of a batch
EPS = float(np.finfo(np.float64).eps)


class ActivationError(NexusError):
    """Activations cannot be analysed; the message names the block."""


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
        coords: Array = (float64(rows) - self.mean) @ self.basis.T
        return coords

    def reconstruct(self, coords: Any) -> Array:
        """The rows (n, d) that have these coordinates (n, k): `mean + coords @ basis`."""
        rows: Array = self.mean + float64(coords) @ self.basis
        return rows

    def select(self, indices: Sequence[int]) -> PCA:
        """The same PCA with only these components, in this order; none of them is a valid choice."""
        chosen = np.asarray(indices, dtype=np.intp)
        return replace(self, basis=self.basis[chosen], variance=self.variance[chosen])


class StreamingPCA:
    """PCA of the rows given to `update`. `k` is the most components that will be asked for; `block` is for messages."""

    def __init__(self, dim: int, k: int = 128, block: str = "", exact_dim: int = EXACT_DIM) -> None:
        self.dim = dim
        self.k = k
        self.block = block
        self._sums: _Covariance | _Truncated = _Covariance(dim) if dim <= exact_dim else _Truncated(dim, k)

    @property
    def n(self) -> int:
        """How many rows were given."""
        return self._sums.n

    def update(self, rows: Any) -> None:
        """Take (m, d) rows, an array or a torch tensor of any dtype on any device; nothing of them is kept."""
        if getattr(rows, "ndim", 0) != 2 or rows.shape[1] != self.dim:
            shape = tuple(getattr(rows, "shape", ()))
            raise ActivationError(
                f"{self._where}: rows of shape {shape}, not (m, {self.dim})", "pool or flatten them first"
            )
        for chunk in _chunks(rows, max(1, CHUNK_VALUES // self.dim)):
            finite = np.isfinite(chunk).all(axis=1)
            if not finite.all():
                first = self.n + int(np.argmin(finite))
                message = f"{self._where}: {int((~finite).sum())} rows hold NaN or Inf (the first is row {first})"
                raise ActivationError(message, "load the teacher in float32; check the checkpoint with `nexus doctor`")
            self._sums.add(chunk)

    def result(self, k: int | None = None) -> PCA:
        """The leading `k` components (all that were promised, by default), or as many as the rows have; `note` says why."""
        wanted = self.k if k is None else k
        if isinstance(self._sums, _Truncated) and wanted > self.k:
            raise ActivationError(
                f"{self._where}: {wanted} components of a stream that keeps {self.k}", f"construct it with k={wanted}"
            )
        if self.n == 0:
            raise ActivationError(f"{self._where}: no rows to analyse", "give at least one sample")
        basis, variance, total = self._sums.solve(min(wanted, self.n - 1, self.dim))
        if not np.isfinite(total):
            raise ActivationError(f"{self._where}: values too large to square in float64", "scale the activations")
        mean = self._sums.mean.copy()
        # What is left of a direction that does not vary is rounding: of the sums, and of the mean that was subtracted.
        floor = max(variance.max(initial=0.0) * max(self.dim, self.n) * EPS, (64 * EPS * np.linalg.norm(mean)) ** 2)
        kept = int((variance > floor).sum())
        note = "" if kept == wanted else self._shortfall(wanted, kept)
        return PCA(mean, _fix_signs(basis[:kept]), variance[:kept], total if kept else 0.0, self.n, note)

    def _shortfall(self, wanted: int, kept: int) -> str:
        if kept == 0 and self.n > 1:
            return f"no component: all {self.n} rows are the same"
        if kept == self.n - 1:
            return f"{kept} of {wanted} components: {self.n} rows span no more"
        if kept == self.dim:
            return f"{kept} of {wanted} components: the block has {self.dim} dimensions"
        return f"{kept} of {wanted} components: the rows vary in {kept} directions only"

    @property
    def _where(self) -> str:
        return f'activations of block "{self.block}"' if self.block else "activations"


class _Covariance:
    """Sum of squares about the running mean, exact up to rounding; only the upper triangle is filled."""

    def __init__(self, dim: int) -> None:
        self.n = 0
        self.mean: Array = np.zeros(dim)
        self.squares: Array = np.zeros((dim, dim), order="F")

    def add(self, rows: Array) -> None:
        from scipy.linalg.blas import dsyrk  # updates one triangle in place: half the work and no second matrix

        m, before = len(rows), self.n
        batch_mean = rows.mean(axis=0)
        step = batch_mean - self.mean
        # S += (X - mean_X)'(X - mean_X) + step step' * before*m/(before+m), the last term as one more row of X
        centred = np.vstack([rows - batch_mean, step * np.sqrt(before * m / (before + m))])
        self.squares = dsyrk(1.0, centred.T, beta=1.0, c=self.squares, overwrite_c=1)
        self.mean += step * (m / (before + m))
        self.n += m

    def solve(self, k: int) -> tuple[Array, Array, float]:
        """Leading `k` directions (k, d), their variance, and the total variance."""
        from scipy.linalg import eigh

        if k < 1:
            return np.zeros((0, self.mean.size)), np.zeros(0), 0.0
        total = float(np.trace(self.squares)) / (self.n - 1)
        if not np.isfinite(total):
            return np.zeros((0, self.mean.size)), np.zeros(0), total
        last = self.mean.size - 1
        values, vectors = eigh(self.squares, lower=False, subset_by_index=[last - k + 1, last], check_finite=False)
        return vectors.T[::-1], np.maximum(values[::-1], 0.0) / (self.n - 1), total


class _Truncated:
    """scikit-learn's IncrementalPCA with twice the components that are wanted: what it drops at each merge is the error.

    Rows wait until there are enough for a merge, which also makes the result independent of how the stream was cut.
    """

    def __init__(self, dim: int, k: int) -> None:
        from sklearn.decomposition import IncrementalPCA

        self.size = min(2 * k, dim)
        self.waiting: Array = np.zeros((0, dim))
        self.model = IncrementalPCA(n_components=self.size)
        self.merged = 0

    @property
    def n(self) -> int:
        return self.merged + len(self.waiting)

    @property
    def mean(self) -> Array:
        waiting = self.waiting.sum(axis=0)
        mean: Array = (waiting + self.model.mean_ * self.merged if self.merged else waiting) / self.n
        return mean

    def add(self, rows: Array) -> None:
        self.waiting = np.vstack([self.waiting, rows])
        while len(self.waiting) >= self.size:
            self.model.partial_fit(self.waiting[: self.size])
            self.waiting = self.waiting[self.size :].copy()
            self.merged += self.size

    def solve(self, k: int) -> tuple[Array, Array, float]:
        """As `_Covariance.solve`: one SVD of the merged components, the waiting rows, and the shift of the mean."""
        if k < 1:
            return np.zeros((0, self.waiting.shape[1])), np.zeros(0), 0.0
        stack, total = self._stack()
        values, vectors = np.linalg.svd(stack, full_matrices=False)[1:]
        return vectors[:k], values[:k] ** 2 / (self.n - 1), total / (self.n - 1)

    def _stack(self) -> tuple[Array, float]:
        if not self.merged:
            centred = self.waiting - self.mean
            return centred, float((centred**2).sum())
        parts = [self.model.components_ * self.model.singular_values_[:, None]]
        total = float(self.model.var_.sum()) * self.merged
        if m := len(self.waiting):
            batch_mean = self.waiting.mean(axis=0)
            shift = (batch_mean - self.model.mean_) * np.sqrt(self.merged * m / self.n)
            more = np.vstack([self.waiting - batch_mean, shift])
            parts.append(more)
            total += float((more**2).sum())
        return np.vstack(parts), total


def principal_angles(a: Any, b: Any) -> Array:
    """Angles in radians between the spaces that the rows of `a` and of `b` span, the largest first."""
    from scipy.linalg import subspace_angles  # exact for small angles too, where the arc cosine is not

    first, second = float64(a), float64(b)
    if not (len(first) and len(second)):
        return np.zeros(0)
    angles: Array = subspace_angles(first.T, second.T)
    return angles


def whiten(coords: Any, variance: Any) -> Array:
    """Coordinates (n, k) scaled to unit variance; a component without variance becomes 0."""
    scale = np.sqrt(float64(variance))
    varies = scale > 0
    whitened: Array = np.where(varies, float64(coords) / np.where(varies, scale, 1.0), 0.0)
    return whitened


def smallest_k(variance: Any, fraction: float) -> int:
    """Fewest components whose variances sum to at least `fraction` of all of it; 0 when there is none."""
    assert 0 < fraction <= 1, fraction
    cumulative = np.cumsum(np.sort(float64(variance))[::-1])
    if not len(cumulative) or cumulative[-1] <= 0:
        return 0
    # Rounding must not ask for one component more when a share is met exactly.
    return int(np.searchsorted(cumulative, fraction * cumulative[-1] * (1 - len(cumulative) * EPS))) + 1


def _fix_signs(basis: Array) -> Array:
    """A direction has no sign: make its largest entry positive, the first one where several are as large."""
    if not len(basis):
        return basis
    size = np.abs(basis)
    first = np.argmax(size >= size.max(axis=1, keepdims=True) * (1 - 1e-6), axis=1)
    fixed: Array = basis * np.sign(basis[np.arange(len(basis)), first])[:, None]
    return fixed


def _chunks(rows: Any, size: int) -> Iterator[Array]:
    for start in range(0, len(rows), size):
        yield float64(rows[start : start + size])


def float64(rows: Any) -> Array:
    """A float64 array of what may be a torch tensor of any dtype on any device."""
    if hasattr(rows, "detach"):
        rows = rows.detach().cpu().double().numpy()
    return np.asarray(rows, dtype=np.float64)
