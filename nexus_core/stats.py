"""Intervals of scores and of paired drops.

Scores of 0 and 1 get exact binomial bounds (Clopper-Pearson; for a drop, those of the answers that were lost and of those
that were gained, joined by the method of variance estimates recovery, Zou and Donner 2008). They hold at the ends too:
20 right of 20 is not certainty, and neither is "no answer changed". Graded scores get a seeded percentile bootstrap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nexus_core.types import CapabilityMetric, Direction, Sample

RESAMPLES = 2000  # the 2.5 % and 97.5 % points then rest on 50 resamples each


@dataclass(frozen=True, slots=True)
class Drop:
    """How much worse a metric became on the same samples (positive = worse), with its 95 % interval."""

    value: float
    low: float
    high: float
    n: int


def score_interval(
    metric: CapabilityMetric, samples: Sequence[Sample], scores: Sequence[float], seed: int
) -> tuple[float, float]:
    """95 % interval of the metric's value."""
    import numpy as np

    values = np.asarray(scores, dtype=np.float64)
    if _is_mean(metric) and _is_binary(values):
        return binomial_interval(int(values.sum()), len(values))
    rows = _rows(len(values), seed)
    if _is_mean(metric):
        return _percentiles(values[rows].mean(axis=1))
    return _percentiles([_value(metric, samples, values, row) for row in rows])


def paired_drop(metric: CapabilityMetric, samples: Sequence[Sample], before: Any, after: Any, seed: int) -> Drop:
    """Drop from the scores `before` to those `after` (arrays of n), sample by sample the same questions."""
    import numpy as np

    n = len(samples)
    sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
    one, two = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    worse = sign * (one - two)
    if _is_mean(metric) and _is_binary(one) and _is_binary(two):
        return _binary_drop(int((worse > 0).sum()), int((worse < 0).sum()), n)
    if not worse.any():
        # Nothing changed on n samples: up to this share of all may change, each by as much as a score was seen to be.
        scale = max(1.0, float(np.abs(one).max(initial=0.0)))
        bound = scale * binomial_interval(0, n)[1]
        return Drop(0.0, -bound, bound, n)
    rows = _rows(n, seed)
    if _is_mean(metric):
        return Drop(float(worse.mean()), *_percentiles(worse[rows].mean(axis=1)), n)
    values = [sign * (_value(metric, samples, one, r) - _value(metric, samples, two, r)) for r in rows]
    drop = sign * (metric.aggregate(samples, list(one)) - metric.aggregate(samples, list(two)))
    return Drop(drop, *_percentiles(values), n)


def binomial_interval(k: int, n: int) -> tuple[float, float]:
    """Clopper and Pearson's exact 95 % interval of a rate that was seen k times in n."""
    from scipy.special import betaincinv

    low = 0.0 if k == 0 else float(betaincinv(k, n - k + 1, 0.025))
    high = 1.0 if k == n else float(betaincinv(k + 1, n - k, 0.975))
    return low, high


def _binary_drop(lost: int, gained: int, n: int) -> Drop:
    """The difference of two rates of one sample: answers that were lost, less answers that were gained."""
    (lost_low, lost_high), (gained_low, gained_high) = binomial_interval(lost, n), binomial_interval(gained, n)
    drop = (lost - gained) / n
    low = drop - ((lost / n - lost_low) ** 2 + (gained_high - gained / n) ** 2) ** 0.5
    high = drop + ((lost_high - lost / n) ** 2 + (gained / n - gained_low) ** 2) ** 0.5
    return Drop(drop, max(low, -1.0), min(high, 1.0), n)


def _is_binary(values: Any) -> bool:
    return bool(((values == 0.0) | (values == 1.0)).all())


def _rows(n: int, seed: int) -> Any:
    import numpy as np

    return np.random.default_rng(seed).integers(0, n, size=(RESAMPLES, n))


def _is_mean(metric: CapabilityMetric) -> bool:
    return type(metric).aggregate is CapabilityMetric.aggregate


def _value(metric: CapabilityMetric, samples: Sequence[Sample], scores: Any, row: Any) -> float:
    return metric.aggregate([samples[i] for i in row], [scores[i] for i in row])


def _percentiles(values: Any) -> tuple[float, float]:
    import numpy as np

    low, high = np.percentile(np.asarray(values), [2.5, 97.5])
    return float(low), float(high)
