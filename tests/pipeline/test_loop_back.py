"""What goes back from the gate to stage 4: how far the contract was missed, and nothing of the samples."""

from __future__ import annotations

import pytest

from nexus_core.distill.settings import read_teaching
from nexus_core.gate.report import Report
from nexus_core.pipeline.loop_back import Return, can_go_back, returning


def report(isolation: str = "pass", **rows: tuple[float | None, str]) -> Report:
    """By name: the student's score where its teacher has 0.8 and the contract asks for 0.97 of that."""
    found = {}
    for name, (score, verdict) in rows.items():
        margin = None if score is None else (score - 0.776) / 0.776
        found[name] = {"verdict": verdict, "teacher_score": 0.8, "student_score": score, "margin": margin}
    verdict = "fail" if isolation == "fail" or any(v == "fail" for _, v in rows.values()) else "pass"
    return Report({"verdict": verdict, "isolation": {"verdict": isolation}, "capabilities": found})


def test_only_what_fails_goes_back_with_the_share_that_it_missed() -> None:
    (one,) = returning(report(math=(0.6, "fail"), code=(0.8, "pass")), 2)
    assert (one.capability, one.attempt) == ("math", 2)
    assert one.missed == pytest.approx((0.776 - 0.6) / 0.8)


def test_a_student_that_knows_nothing_missed_everything() -> None:
    (one,) = returning(report(math=(0.0, "fail")), 1)
    assert one.missed == 1.0


@pytest.mark.parametrize(
    "of",
    [
        report(math=(0.8, "pass")),
        report("fail", math=(0.6, "fail")),  # whoever reached out is not taught to do it better
        report(math=(0.6, "fail"), code=(None, "fail")),  # no teaching gives a score that is missing
    ],
)
def test_what_teaching_cannot_mend_does_not_go_back(of) -> None:
    assert returning(of, 1) == []


def test_each_return_has_more_steps_and_a_higher_goal() -> None:
    preset = read_teaching("tiny")
    again = Return("math", 0.05, 2).teaching(preset)
    assert [p.steps for p in again.phases] == [3 * p.steps for p in preset.phases]
    assert again.retention.margin == pytest.approx(preset.retention.margin + 0.05)
    assert again.loss == preset.loss and again.recovery == preset.recovery


def test_only_the_runs_own_student_is_taught_on(tmp_path) -> None:
    (tmp_path / "student").mkdir()
    assert can_go_back(tmp_path, tmp_path / "x/../student")
    assert not can_go_back(tmp_path, tmp_path / "bundle")
