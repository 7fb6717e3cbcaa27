"""What `nexus verify` refuses before it takes anything away, and what it says whoever reads it."""

from __future__ import annotations

import json

import pytest

from nexus_core.gate.report import HASH, REPORT, signed


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--device", "gpu"), "the device gpu cannot be used"),
        (("--device", "cuda:99"), "the device cuda:99 cannot be used"),
        (("--out", "nowhere/report.json"), "nowhere is no directory"),
    ],
)
def test_what_cannot_work_is_refused_before_the_student_is_asked(passed, verify, arguments, said) -> None:
    before = (passed.run / REPORT).read_bytes()
    ended = verify(*arguments)
    assert (ended.status, ended.out) == (2, ""), ended.err
    assert said in ended.err and "out of reach" not in ended.err
    assert (passed.run / REPORT).read_bytes() == before, "the report of a pass is not lost to a slip"


def test_a_place_that_cannot_be_written_is_known_before_the_student_is_asked(passed, verify) -> None:
    ended = verify("--out", "/proc/report.json")
    assert ended.status == 1 and "error: /proc/report.json cannot be written" in ended.err, ended.err
    assert "out of reach" not in ended.err and "internal" not in ended.err


def test_what_was_asked_in_part_is_no_pass_when_it_is_read_again(passed, verify) -> None:
    body = json.loads((passed.run / REPORT).read_text())
    del body[HASH]
    body |= {"gaps": ["not asked: errors"], "verdict": "incomplete"}
    (passed.run / REPORT).write_text(json.dumps(signed(body).body))
    ended = verify("--check")
    assert ended.status == 3 and "verdict: incomplete" in ended.out and "no verdict on the student" in ended.err


def test_why_a_report_is_not_trusted_is_also_told_beside_json(passed, verify) -> None:
    body = json.loads((passed.run / REPORT).read_text())
    del body[HASH]
    body["capabilities"]["letters"]["retain_fraction"] = 0.5
    (passed.run / REPORT).write_text(json.dumps(signed(body).body))
    ended = verify("--check", "--json")
    assert ended.status == 3 and json.loads(ended.out)["verdict"] == "pass"
    assert "not to be trusted: letters: its contract has retain_fraction 0.5" in ended.err
