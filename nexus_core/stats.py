"""Intervals of scores and of paired drops, by one seeded bootstrap.

Where every sample agrees, resampling says nothing (its interval has no width), so the exact binomial bound is given
instead: 20 right of 20 is not certainty, and neither is "no answer changed" on 20 samples.
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
    n = len(scores)
    if set(scores) in ({0.0}, {1.0}):
        return (1 - _unseen(n), 1.0) if scores[0] else (0.0, _unseen(n))
    rows = _rows(n, seed)
    if _is_mean(metric):
        import numpy as np

        return _percentiles(np.asarray(scores, dtype=np.float64)[rows].mean(axis=1))
    return _percentiles([_value(metric, samples, scores, row) for row in rows])


def paired_drop(metric: CapabilityMetric, samples: Sequence[Sample], before: Any, after: Any, seed: int) -> Drop:
    """Drop from the scores `before` to those `after` (arrays of n), sample by sample the same questions."""
    import numpy as np

    n = len(samples)
    sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
    one, two = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if np.array_equal(one, two):
        # Of n answers none changed: up to this share of all answers may, and each of those could lose a whole point.
        bound = _unseen(n) if set(one.tolist()) <= {0.0, 1.0} else 0.0
        return Drop(0.0, 0.0, bound, n)
    rows = _rows(n, seed)
    if _is_mean(metric):
        differences = sign * (one - two)
        values: Any = differences[rows].mean(axis=1)
        drop = float(differences.mean())
    else:
        values = [sign * (_value(metric, samples, one, r) - _value(metric, samples, two, r)) for r in rows]
        drop = sign * (metric.aggregate(samples, list(one)) - metric.aggregate(samples, list(two)))
    return Drop(drop, *_percentiles(values), n)


def _unseen(n: int) -> float:
    """Clopper-Pearson's 97.5 % bound on the rate of what did not occur in n trials."""
    bound: float = 1 - 0.025 ** (1 / n)
    return bound


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
