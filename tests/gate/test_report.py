"""A report is read with distrust: what was edited, and what the registry or the student contradicts, is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nexus_core.errors import ContractFailed, DataError
from nexus_core.gate import REPORT, read_report, summary
from nexus_core.gate.report import HASH, Report, overall, signed, write_report


def edit(path: Path, change, sign: bool = False) -> None:
    body = json.loads(path.read_text())
    change(body)
    body = dict(signed({k: v for k, v in body.items() if k != HASH}).body) if sign else body
    path.write_text(json.dumps(body))


def test_a_report_that_was_left_alone_holds(passed, verify) -> None:
    ended = verify("--check")
    assert ended.status == 0 and "verdict: pass" in ended.out and "not to be trusted" not in ended.err


def raise_score(body) -> None:
    body["capabilities"]["letters"]["student_score"] = 0.999


def pass_what_failed(body) -> None:
    body["capabilities"]["letters"] |= {"student_score": 0.1, "ratio": 0.1, "verdict": "pass"}


def keep_ratio(body) -> None:
    body["capabilities"]["letters"]["student_score"] = 0.99


def weaken(body) -> None:
    body["capabilities"]["letters"]["retain_fraction"] = 0.5


def drop_minimum(body) -> None:
    body["capabilities"]["errors"]["direction"] = "higher"


def other_teacher(body) -> None:
    body["capabilities"]["letters"]["teacher"] = "bob"


def say_pass(body) -> None:
    body["gaps"] = ["not asked: errors"]


def hide_attempt(body) -> None:
    body["isolation"]["attempts"] = [{"event": "open", "target": "x", "what": "the teacher ada"}]


def no_score(body) -> None:
    body["capabilities"]["letters"] |= {"student_score": None, "ratio": None}


def no_contract(body) -> None:
    body["capabilities"]["letters"]["metric"] = None


def nothing_left(body) -> None:
    body["capabilities"] = {}


@pytest.mark.parametrize("change", [raise_score, weaken, say_pass, nothing_left])
def test_an_edited_report_shows_it(passed, verify, change) -> None:
    edit(passed.run / REPORT, change)
    ended = verify("--check")
    assert ended.status == 3 and "was edited: its hash is not that of its content" in ended.err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (pass_what_failed, "letters: it says pass, and its figures say fail"),
        (keep_ratio, "letters: its ratio is not that of its scores"),
        (weaken, "letters: its contract has retain_fraction 0.5, and the registry says 0.97"),
        (drop_minimum, "errors: its contract has direction higher, and the registry says lower"),
        (other_teacher, 'letters: teacher "bob" does not carry capability "letters"'),
        (say_pass, "it says pass, and its own figures say incomplete"),
        (hide_attempt, "it calls the isolation sound and lists attempts to break it"),
        (no_score, "letters: it has no score and did not fail"),
        (no_contract, "letters: it has no contract and did not fail"),
        (nothing_left, "it says pass, and its own figures say fail"),
    ],
)
def test_an_edit_that_renews_the_hash_contradicts_itself(passed, verify, change, why) -> None:
    edit(passed.run / REPORT, change, sign=True)
    ended = verify("--check")
    assert ended.status == 3 and f"not to be trusted: {why}" in ended.err


def test_a_contract_that_was_edited_since_is_another_contract(passed, verify, monkeypatch, tmp_path) -> None:
    """Verified under a weaker contract, read under the real one; and the other way round."""
    text = passed.registry.read_text()
    assert "direction: higher}" in text
    weaker = tmp_path / "registry.yaml"
    weaker.write_text(text.replace("direction: higher}", "direction: higher, retain_fraction: 0.5}"))
    monkeypatch.setenv("NEXUS_REGISTRY", str(weaker))
    ended = verify("--check")
    assert ended.status == 3
    assert "letters: its contract has retain_fraction 0.97, and the registry says 0.5" in ended.err


def test_a_student_that_was_changed_since_has_no_report(passed, verify) -> None:
    file = passed.student / "adapters/letters.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    ended = verify("--check")
    assert ended.status == 3 and "it is about another student, or the student was changed since" in ended.err


def test_no_report_is_said(world, verify) -> None:
    ended = verify("--check")
    assert ended.status == 1 and "there is no report" in ended.err and "nexus verify --run RUN" in ended.err


def test_the_hash_covers_all_but_the_latencies_and_others_modules(passed, passed_once) -> None:
    path = passed.run / REPORT
    edit(path, lambda body: body["conditions"]["letters"]["latency"].update(ms_per_token=1.0))
    edit(path, lambda body: body["isolation"]["modules"].append("backports"))
    report = read_report(path)
    stable = report.stable()
    assert "latency" not in stable.body["conditions"]["letters"] and stable.body[HASH] == report.body[HASH]
    assert stable.body == Report(passed_once.report).stable().body, "a bundle's copy does not depend on the run's speed"
    assert all(name.startswith("nexus") for name in stable.body["isolation"]["modules"])
    write_report(path, stable)
    assert read_report(path).passed
    edit(path, lambda body: body["isolation"]["modules"].append("nexus_teacher_zoo"))
    with pytest.raises(ContractFailed, match="was edited"):
        read_report(path)


def test_a_variant_is_added_under_a_new_hash(passed) -> None:
    report = read_report(passed.run / REPORT)
    more = report.with_variant("nf4", summary(report))
    assert more.body["variants"]["nf4"]["capabilities"]["letters"]["student_score"] == 1.0
    assert more.body[HASH] != report.body[HASH] and report.body["variants"] == {}
    write_report(passed.run / REPORT, more)
    assert read_report(passed.run / REPORT).body == more.body


@pytest.mark.parametrize(
    ("rows", "isolation", "gaps", "verdict"),
    [
        ({"a": {"verdict": "pass"}}, "pass", [], "pass"),
        ({"a": {"verdict": "pass"}}, "pass", ["not asked: b"], "incomplete"),
        ({"a": {"verdict": "pass"}}, "fail", [], "fail"),
        ({"a": {"verdict": "pass"}, "b": {"verdict": "fail"}}, "pass", ["few samples"], "fail"),
        ({}, "pass", [], "fail"),
    ],
)
def test_the_verdict_over_everything(rows, isolation, gaps, verdict) -> None:
    assert overall(rows, isolation, gaps) == verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"verdict": NaN}', "is no JSON"),
        ('{"verdict": "pass"}', "is a required property"),
        ("[]", "is not of type 'object'"),
    ],
)
def test_what_is_no_report_is_named(tmp_path, text, message) -> None:
    (tmp_path / REPORT).write_text(text)
    with pytest.raises(DataError, match=message):
        read_report(tmp_path / REPORT)


def test_an_unknown_key_is_refused_before_the_hash_is_looked_at(passed) -> None:
    edit(passed.run / REPORT, lambda body: body.update(override=True), sign=True)
    with pytest.raises(DataError, match="override"):
        read_report(passed.run / REPORT)


def test_a_report_without_a_hash_is_none(passed) -> None:
    edit(passed.run / REPORT, lambda body: body.update({HASH: "0" * 64}))
    with pytest.raises(ContractFailed, match="was edited"):
        read_report(passed.run / REPORT)
