"""Stopping on retention: what the contract asks, when it is measured, and at what cost."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_core.distill.retention import Measured, Progress, Validation, evaluation_due, goal
from nexus_core.distill.settings import read_teaching
from nexus_core.errors import UsageError
from nexus_core.types import CapabilityMetric, Contract, Direction, Sample, SampleRequest, Split, Thresholds

SETTINGS = replace(read_teaching("tiny").retention, screen=20, full=100, margin=0.01)


class Numbers(CapabilityMetric):
    name, metric, direction = "numbers", "exact", Direction.HIGHER

    def samples(self, request):
        self.asked = request
        for i in range(request.n):
            yield Sample(str(i), str(i), "right")

    def score(self, sample, output):
        return float(output == "right")


class Errors(Numbers):
    direction = Direction.LOWER

    def score(self, sample, output):
        return float(output != "right")


class Knows:
    """Answers the first `share` of each ten questions."""

    def __init__(self, share):
        self.share, self.asked = share, []

    def generate(self, samples, options):
        self.asked += [sample.id for sample in samples]
        return ["right" if int(sample.id) % 100 < self.share else "wrong" for sample in samples]


def contract(direction=Direction.HIGHER, retain=0.97, minimum=None):
    return Contract("numbers", "own", "exact", direction, retain, minimum, 1, 8, Thresholds(0.1, 0.05))


@pytest.mark.parametrize(
    ("asked", "teacher", "expected"),
    [
        (contract(), 0.8, 0.776),
        (contract(minimum=0.78), 0.8, 0.78),
        (contract(minimum=0.5), 0.8, 0.776),
        (contract(retain=None, minimum=1.0), 0.0, 1.0),
        (contract(Direction.LOWER, 1.03), 0.2, 0.206),
    ],
)
def test_the_goal_is_what_the_contract_asks(asked, teacher, expected):
    assert goal(asked, teacher) == pytest.approx(expected)


def test_a_teacher_that_knows_nothing_has_nothing_to_retain():
    with pytest.raises(UsageError, match="scores 0"):
        goal(contract(), 0.0)
    with pytest.raises(UsageError, match="demands nothing"):
        goal(contract(retain=None), 1.0)


def test_the_schedule_starts_late_and_is_a_function_of_the_step():
    settings = replace(SETTINGS, first=0.4, every=20)
    assert [step for step in range(101) if evaluation_due(step, 100, settings)] == [40, 60, 80, 100]
    assert not evaluation_due(0, 100, replace(settings, first=0.0))
    assert not any(evaluation_due(step, 100, replace(settings, every=0)) for step in range(101))


def test_a_hopeless_student_is_asked_little():
    knows = Knows(10)
    measured = Validation(Numbers(), contract(), 1.0, knows).measure(SETTINGS)
    assert (measured.n, measured.full, measured.met, len(knows.asked)) == (20, False, False, 20)


def test_a_hopeful_student_is_asked_everything_and_no_question_twice():
    knows = Knows(98)
    measured = Validation(Numbers(), contract(), 1.0, knows).measure(SETTINGS)
    assert (measured.n, measured.full, measured.score) == (100, True, 0.98)
    assert len(knows.asked) == len(set(knows.asked)) == 100
    assert measured.retention == pytest.approx(0.98)
    assert measured.low < 0.98 < measured.high


@pytest.mark.parametrize(
    ("share", "teacher", "met"), [(97, 1.0, False), (98, 1.0, True), (88, 0.9, False), (89, 0.9, True)]
)
def test_met_is_the_goal_and_a_margin(share, teacher, met):
    assert Validation(Numbers(), contract(), teacher, Knows(share)).measure(SETTINGS).met == met


@pytest.mark.parametrize(("share", "met"), [(80, True), (79, False), (10, False)])
def test_where_lower_is_better_it_is_the_other_way_round(share, met):
    validation = Validation(Errors(), contract(Direction.LOWER, 1.03), 0.2, Knows(share))
    measured = validation.measure(SETTINGS)
    assert measured.met == met
    assert measured.full == (share > 10)
    assert validation.better(0.1, 0.2)
    assert not validation.better(0.2, 0.1)


def test_it_looks_at_the_profile_split_and_refuses_the_verify_split():
    metric = Numbers()
    Validation(metric, contract(), 1.0, Knows(1)).measure(SETTINGS)
    assert metric.asked.split is Split.PROFILE
    with pytest.raises(UsageError, match="verify split"):
        Validation(metric, contract(), 1.0, Knows(1), SampleRequest(Split.VERIFY))


def test_progress_counts_evaluations_since_the_best():
    measured = Measured(0.5, 1.0, 0.5, 0.97, 20, 0.3, 0.7, False, False, 0.1)
    progress = Progress().after(40, measured, better=True)
    assert (progress.best, progress.since, progress.step) == (0.5, 0, 40)
    progress = progress.after(60, replace(measured, score=0.4), better=False)
    assert (progress.best, progress.since, progress.score) == (0.5, 1, 0.4)
    progress = progress.after(80, replace(measured, score=0.6, met=True), better=True)
    assert (progress.best, progress.since, progress.met) == (0.6, 0, True)
