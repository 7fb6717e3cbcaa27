"""The arithmetic of a contract, in both directions, and the interval of a ratio."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nexus_core.gate.verdict import Figures, Result, judge, measure, worst_first
from nexus_core.types import CapabilityMetric, Contract, Direction, Sample, Thresholds

HIGHER = Contract("c", "pack", "exact", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.02, 0.005))
LOWER = replace(HIGHER, direction=Direction.LOWER, retain_fraction=1.03)


class Mean(CapabilityMetric):
    name, metric, direction = "c", "exact", Direction.HIGHER

    def samples(self, request):
        yield from ()

    def score(self, sample, output):
        return 0.0


class Pooled(Mean):
    """A metric whose value is no mean of its scores."""

    def aggregate(self, samples, scores):
        return sum(scores) / max(1.0, sum(len(sample.prompt) for sample in samples))


SAMPLES = [Sample(str(i), "x" * (i % 5 + 1), "") for i in range(60)]


@pytest.mark.parametrize(
    ("contract", "teacher", "student", "verdict"),
    [
        (HIGHER, 0.8, 0.776, "pass"),
        (HIGHER, 0.8, 0.775, "fail"),
        (HIGHER, 0.6, 0.582, "pass"),  # 0.97 * 0.6 is 0.5820000000000001 in binary
        (HIGHER, 0.8, 0.9, "pass"),
        (LOWER, 0.10, 0.103, "pass"),
        (LOWER, 0.10, 0.104, "fail"),
        (LOWER, 0.10, 0.05, "pass"),
        (LOWER, 0.0, 0.0, "pass"),
        (LOWER, 0.0, 0.01, "fail"),
        (replace(HIGHER, minimum=0.85), 0.86, 0.84, "fail"),  # the share is kept, the minimum is not
        (replace(HIGHER, minimum=0.85), 0.95, 0.90, "fail"),  # the minimum is kept, the share is not
        (replace(HIGHER, minimum=0.85), 0.86, 0.85, "pass"),
        (replace(HIGHER, retain_fraction=None, minimum=1.0), 0.5, 1.0, "pass"),
        (replace(HIGHER, retain_fraction=None, minimum=1.0), 0.5, 0.999, "fail"),
        (replace(HIGHER, retain_fraction=None), 0.5, 1.0, "fail"),  # a contract that demands nothing
        (HIGHER, 0.0, 0.0, "fail"),  # no share of nothing
        (HIGHER, math.nan, 0.9, "fail"),
        (HIGHER, 0.9, math.nan, "fail"),
        (HIGHER, 0.9, math.inf, "fail"),
        (replace(HIGHER, relative_to="student_baseline"), 0.5, 1.0, "fail"),
    ],
)
def test_a_contract_is_kept_or_not(contract, teacher, student, verdict) -> None:
    judged = judge(contract, teacher, student)
    assert judged.verdict == verdict
    assert bool(judged.reason) == (verdict == "fail")


def test_the_reason_names_the_limit_that_was_missed() -> None:
    both = replace(HIGHER, minimum=0.85)
    assert judge(both, 0.86, 0.84).reason == "0.84 is below 0.85, which is the minimum 0.85"
    assert judge(both, 0.95, 0.90).reason == "0.9 is below 0.9215, which is 0.97 of the teacher's 0.95"
    assert judge(LOWER, 0.10, 0.2).reason == "0.2 is above 0.103, which is 1.03 of the teacher's 0.1"


def test_the_worst_is_first_and_what_has_no_score_is_worse_than_any() -> None:
    def result(name: str, student: float) -> Result:
        return Result(name, "t", HIGHER, Figures(0.8, student, student / 0.8, None, 10))

    results = [result("fine", 0.8), result("bad", 0.1), Result("none", "t", HIGHER, None, "it gave no answers")]
    assert [r.capability for r in worst_first(results)] == ["none", "bad", "fine"]
    assert results[2].as_json()["verdict"] == "fail" and results[2].as_json()["margin"] is None
    assert Result("c", "t", HIGHER, None).as_json()["reason"] == "it has no score"


def test_equal_answers_have_a_ratio_of_one_for_certain() -> None:
    scores = [float(i % 4 > 0) for i in range(60)]
    found = measure(Mean(), SAMPLES, scores, scores, 500)
    assert (found.teacher_score, found.ratio, found.ci95, found.n) == (0.75, 1.0, (1.0, 1.0), 60)


def test_the_interval_is_of_the_same_questions_and_holds_the_ratio() -> None:
    teacher = [float(i % 10 > 0) for i in range(60)]
    student = [float(i % 10 > 1) for i in range(60)]
    found = measure(Mean(), SAMPLES, teacher, student, 2000)
    low, high = found.ci95
    assert found.ratio == pytest.approx(8 / 9) and low < found.ratio < high <= 1.0
    assert 0.05 < high - low < 0.25
    assert measure(Mean(), SAMPLES, teacher, student, 2000) == found, "seeded"


def test_a_metric_that_is_no_mean_is_aggregated_anew_in_each_draw() -> None:
    scores = [float(len(sample.prompt)) for sample in SAMPLES]
    found = measure(Pooled(), SAMPLES, scores, [score / 2 for score in scores], 50)
    assert found.teacher_score == 1.0 and found.ci95 == pytest.approx((0.5, 0.5))


def test_no_ratio_of_nothing_and_no_interval_where_draws_have_none() -> None:
    nothing = measure(Mean(), SAMPLES, [0.0] * 60, [1.0] * 60, 100)
    assert (nothing.ratio, nothing.ci95) == (None, None)
    hardly = measure(Mean(), SAMPLES, [1.0] + [0.0] * 59, [0.0] * 60, 100)
    assert (hardly.ratio, hardly.ci95) == (0.0, None)
