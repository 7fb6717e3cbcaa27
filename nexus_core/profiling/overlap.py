"""Do two teachers carry a capability in the same way? Compared on what both of them made of the same samples.

CCA and SVCCA (Raghu et al. 2017) find the linear maps under which the two agree; RSA (Kriegeskorte et al. 2008) asks
whether the samples that are near each other for one teacher are so for the other. With few samples and many dimensions
two unrelated teachers agree too, so both are cut to the leading directions that the samples can determine, and every
number stands beside what the same measure gives after the samples of one teacher were shuffled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nexus_core.profiling.pca import ActivationError, Array, float64, smallest_k

SAMPLES_PER_DIRECTION = 4  # fewer, and canonical correlations of unrelated data come close to 1
SVCCA_VARIANCE = 0.99  # what SVCCA keeps of each side, as in the paper
CHANCE_QUANTILE = 0.95  # what unrelated teachers reach one time in twenty


@dataclass(frozen=True, slots=True)
class Similarity:
    """Mean canonical correlation over all usable directions (`cca`), over those that hold the variance (`svcca`), and the
    rank correlation of the two matrices of distances between samples (`rsa`)."""

    cca: float
    svcca: float
    rsa: float


@dataclass(frozen=True, slots=True)
class OverlapOptions:
    """`heavy_above` is the chance-corrected SVCCA from which two teachers count as one, from registry.yaml."""

    heavy_above: float
    permutations: int = 200
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Overlap:
    """How far two teachers of one tower agree over `n` shared samples. Where nothing could be measured, `reason` says why.

    `corrected` is SVCCA on a scale on which 0 is chance and 1 is agreement; from the threshold on it is `heavy`.
    """

    teacher_a: str
    teacher_b: str
    capability: str
    cca: float | None
    svcca: float | None
    rsa: float | None
    chance: Similarity | None
    corrected: float | None
    n: int
    heavy: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class TeacherCoordinates:
    """One teacher's side of a comparison: the digests of the samples (`Sample.digest`) and their coordinates (n, k)."""

    teacher: str
    digests: tuple[str, ...]
    coords: Array


def measure_overlap(capability: str, a: TeacherCoordinates, b: TeacherCoordinates, options: OverlapOptions) -> Overlap:
    """Compare two teachers on the samples that both of them saw."""
    rows_a = {digest: row for row, digest in enumerate(a.digests)}
    rows_b = {digest: row for row, digest in enumerate(b.digests)}
    shared = [digest for digest in a.digests if digest in rows_b]
    x = _centred(a, [rows_a[digest] for digest in shared])
    y = _centred(b, [rows_b[digest] for digest in shared])
    n = len(shared)
    reason = _not_measurable(a, x) or _not_measurable(b, y)
    if reason:
        return Overlap(a.teacher, b.teacher, capability, None, None, None, None, None, n, heavy=False, reason=reason)
    found, chance = similarity(x, y, options)
    corrected = (found.svcca - chance.svcca) / (1 - chance.svcca) if chance.svcca < 1 else 0.0
    heavy = corrected >= options.heavy_above
    return Overlap(
        a.teacher,
        b.teacher,
        capability,
        found.cca,
        found.svcca,
        found.rsa,
        chance,
        float(corrected),
        n,
        heavy=bool(heavy),
    )


def similarity(x: Array, y: Array, options: OverlapOptions) -> tuple[Similarity, Similarity]:
    """Similarity of centred (n, k1) and (n, k2), and what shuffled samples reach one time in twenty."""
    rng = np.random.default_rng(options.seed)
    full_x, main_x = _directions(x)
    full_y, main_y = _directions(y)
    ranks_x, ranks_y = _distance_ranks(x), _distance_ranks(y)
    upper = np.triu_indices(len(x), 1)
    flat_x = ranks_x[upper]

    def measure(order: Array) -> tuple[float, float, float]:
        cca = _mean_correlation(full_x, full_y[order])
        svcca = _mean_correlation(full_x[:, :main_x], full_y[order][:, :main_y])
        return cca, svcca, float(flat_x @ ranks_y[np.ix_(order, order)][upper])

    identity = np.arange(len(x))
    shuffled = [measure(rng.permutation(len(x))) for _ in range(options.permutations)]
    return Similarity(*measure(identity)), Similarity(*map(float, np.quantile(shuffled, CHANCE_QUANTILE, axis=0)))


def _centred(side: TeacherCoordinates, rows: list[int]) -> Array:
    coords = float64(side.coords)
    if coords.ndim != 2 or len(coords) != len(side.digests):
        message = f"{side.teacher}: coordinates of shape {coords.shape} for {len(side.digests)} samples"
        raise ActivationError(message, "give one row of pooled coordinates per sample")
    if not np.isfinite(coords).all():
        raise ActivationError(f"{side.teacher}: coordinates hold NaN or Inf", "profile this teacher again")
    chosen = coords[rows]
    return chosen - chosen.mean(axis=0) if len(chosen) else chosen


def _not_measurable(side: TeacherCoordinates, x: Array) -> str:
    if len(x) < SAMPLES_PER_DIRECTION:
        return f"{len(x)} shared samples: at least {SAMPLES_PER_DIRECTION} are needed"
    if x.shape[1] == 0:
        return f"{side.teacher} has no protected component"
    if not np.linalg.norm(x) > 1e-12 * np.linalg.norm(side.coords):
        return f"{side.teacher} does not tell these samples apart"
    return ""


def _directions(x: Array) -> tuple[Array, int]:
    """Orthonormal sample-space directions (n, p) of x, the strongest first, and how many of them SVCCA keeps."""
    left, values, _ = np.linalg.svd(x, full_matrices=False)
    rank = int((values > values[0] * max(x.shape) * np.finfo(np.float64).eps).sum())
    usable = min(rank, len(x) // SAMPLES_PER_DIRECTION)
    return left[:, :usable], min(usable, smallest_k(values**2, SVCCA_VARIANCE))


def _mean_correlation(u: Array, v: Array) -> float:
    """Mean canonical correlation of two spaces of samples, given orthonormal bases."""
    return float(np.linalg.svd(u.T @ v, compute_uv=False).clip(0, 1).mean())


def _distance_ranks(x: Array) -> Array:
    """Ranks of the distances between samples, centred and scaled so that a dot product of two is Spearman's correlation.

    Distances rather than correlations of rows: they are defined for a single component too.
    """
    from scipy.spatial.distance import pdist, squareform
    from scipy.stats import rankdata

    ranks = rankdata(pdist(x))
    ranks -= ranks.mean()
    norm = np.linalg.norm(ranks)
    matrix: Array = squareform(ranks / norm if norm > 0 else ranks, checks=False)
    return matrix


def heavy_overlaps(overlaps: Any) -> tuple[Overlap, ...]:
    """The pairs that the architect is offered as a merge, the strongest first."""
    return tuple(sorted((o for o in overlaps if o.heavy), key=lambda o: -(o.corrected or 0.0)))
