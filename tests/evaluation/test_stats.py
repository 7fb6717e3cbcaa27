"""Intervals: exact for 0/1 scores, monotone in what was seen, never certain."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_core.stats import binomial_interval, paired_drop, score_interval
from nexus_core.types import CapabilityMetric, Direction, Sample


class Exact(CapabilityMetric):
    name, metric, direction = "exact", "exact_match", Direction.HIGHER

    def samples(self, request):
        yield from ()

    def score(self, sample, output):
        return 0.0


class WordErrors(Exact):
    direction = Direction.LOWER


def some(n):
    return [Sample(str(i), str(i), "") for i in range(n)]


def drop(lost, gained, n):
    before = [1.0] * (n - gained) + [0.0] * gained
    after = [0.0] * lost + [1.0] * (n - lost)
    return paired_drop(Exact(), some(n), before, after, seed=42)


def test_binomial_bounds_are_those_of_the_tables():
    assert binomial_interval(0, 20) == (0.0, pytest.approx(0.1684, abs=1e-4))
    assert binomial_interval(20, 20) == (pytest.approx(0.8316, abs=1e-4), 1.0)
    assert binomial_interval(7, 20) == (pytest.approx(0.1539, abs=1e-4), pytest.approx(0.5922, abs=1e-4))


def test_binomial_bounds_cover_as_often_as_they_say():
    rng = np.random.default_rng(0)
    for rate in (0.02, 0.3, 0.97):
        covered = [
            low <= rate <= high for low, high in (binomial_interval(k, 100) for k in rng.binomial(100, rate, 2000))
        ]
        assert np.mean(covered) >= 0.945


def test_more_answers_lost_is_never_a_smaller_bound():
    highs = [drop(lost, 0, 200).high for lost in range(12)]
    assert highs == sorted(highs)
    assert drop(0, 0, 200).high == pytest.approx(0.0183, abs=1e-4)
    assert drop(1, 0, 200).high == pytest.approx(0.0275, abs=1e-4)
    scores = [score_interval(Exact(), some(100), [1.0] * k + [0.0] * (100 - k), 42) for k in range(101)]
    assert scores == sorted(scores)
    assert all(high < 1.0 for _, high in scores[:-1])


def test_what_was_gained_makes_up_for_what_was_lost():
    even = drop(5, 5, 200)
    assert even.value == 0.0
    assert even.low == pytest.approx(-even.high)
    assert even.high > drop(0, 0, 200).high


def test_an_unchanged_graded_metric_is_not_certain_either():
    rates = [0.1, 0.4, 1.7, 0.0]
    unchanged = paired_drop(WordErrors(), some(4), rates, rates, seed=42)
    assert unchanged.value == 0.0
    assert unchanged.high > 0.9  # four samples exclude next to nothing
    worse = paired_drop(WordErrors(), some(4), rates, [0.2, 0.5, 1.8, 0.1], seed=42)
    assert worse.value == pytest.approx(0.1)
    assert worse.low <= 0.1 <= worse.high
