"""Means over samples and seeds, with intervals: a bootstrap that resamples both, paired.

A resample takes the same samples and the same seeds for every arm (and for the teacher): seed k is the same start and the
same order of prompts in all of them, so a difference of two arms is paired in both. With few seeds the part of the
interval that comes from them is coarse; it is never left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.stats import RESAMPLES
from nexus_core.types import CapabilityMetric, Direction, Sample

Floats = NDArray[np.float64]
SEED = 42
ALL = "all"


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """By name."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class Resampled:
    """A mean over seeds, as measured and in each resample."""

    value: float
    draws: Floats  # (R,)

    @property
    def interval(self) -> Interval:
        """The 2.5 % and 97.5 % points of the resamples."""
        low, high = np.percentile(self.draws, [2.5, 97.5])
        return Interval(float(self.value), float(low), float(high))

    def less(self, other: Resampled) -> Resampled:
        """The difference, resample by resample."""
        return Resampled(self.value - other.value, self.draws - other.draws)

    def share_of(self, other: Resampled) -> Resampled:
        """The ratio, resample by resample."""
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = np.nan_to_num(self.draws / other.draws, nan=0.0, posinf=0.0, neginf=0.0)
        return Resampled(self.value / other.value if other.value else 0.0, draws)


class Draws:
    """The resamples of one capability's samples. Capabilities are resampled apart, seeds for all of them together."""

    def __init__(self, metric: CapabilityMetric, samples: Sequence[Sample]) -> None:
        self.metric, self.samples = metric, samples
        self._mean = type(metric).aggregate is CapabilityMetric.aggregate
        generator = np.random.default_rng([SEED, zlib.crc32(metric.name.encode())])
        self._rows = generator.integers(0, len(samples), size=(RESAMPLES, len(samples)))
        # How often each resample has each sample: a mean is then a product, and takes no time.
        self._shares = np.stack([np.bincount(row, minlength=len(samples)) for row in self._rows]) / len(samples)

    def mean(self, scores: Sequence[Sequence[float]]) -> Resampled:
        """Of scores by seed and sample."""
        values = np.asarray(scores, np.float64)  # (S, n)
        own = [self.metric.aggregate(self.samples, list(row)) for row in values]
        drawn = np.stack([self._drawn(row) for row in values], axis=1)  # (R, S)
        return Resampled(float(np.mean(own)), (drawn * seed_shares(len(values))).sum(1))

    def _drawn(self, scores: Floats) -> Floats:
        """(R,) the metric's value of one seed in each resample."""
        if self._mean:
            found: Floats = self._shares @ scores
            return found
        take = self.metric.aggregate
        return np.array([take([self.samples[i] for i in row], [float(scores[i]) for i in row]) for row in self._rows])

    def gain(self, one: Resampled, two: Resampled) -> Resampled:
        """By how much the first is better, whichever way the metric is."""
        return one.less(two) if self.metric.direction is Direction.HIGHER else two.less(one)

    def retained(self, own: Resampled, teacher: Resampled) -> Resampled:
        """What of the teacher's score is kept; where lower is better, the teacher's share of the student's."""
        return own.share_of(teacher) if self.metric.direction is Direction.HIGHER else teacher.share_of(own)


def seed_shares(seeds: int) -> Floats:
    """(R, S) how much of each resample is of which seed."""
    counts = np.random.default_rng(SEED).multinomial(seeds, np.full(seeds, 1 / seeds), size=RESAMPLES)
    shares: Floats = counts / seeds
    return shares


def mean_of(parts: Mapping[str, Resampled]) -> Resampled:
    """The mean over capabilities."""
    return Resampled(
        float(np.mean([part.value for part in parts.values()])),
        np.mean([part.draws for part in parts.values()], axis=0),
    )


def plain_mean(values: Sequence[Any]) -> float | None:
    """Of what was measured; None where nothing was."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
