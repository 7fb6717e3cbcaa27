"""summary.json: strict JSON, the worst first, and one adapter's run keeps what it does not know."""

from __future__ import annotations

import json

import pytest

from nexus_core.distill.report import COLUMNS, DistillReport, router_lines, write_report
from nexus_core.distill.run import Taught
from nexus_core.errors import DataError


def taught(capability, score, goal=0.9, **changes):
    measured = {
        "score": score,
        "teacher": 1.0,
        "retention": score,
        "goal": goal,
        "n": 100,
        "low": score - 0.1,
        "high": score + 0.1,
        "full": True,
        "met": score >= goal + 0.01,
        "seconds": 1.0,
        "parts": {},
        "reached": score / goal,
        **changes,
    }
    return Taught(capability, measured, ({"capability": capability, "reason": "ceiling"},))


def report(*capabilities, router=None):
    return DistillReport(capabilities, {"backbone": 10, "adapters": 4}, {"rows": 0.1, "teaching": 2.0}, router)


def read(run):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads((run / "distill/summary.json").read_text(), parse_constant=refuse)


def test_the_worst_comes_first_in_the_file_and_in_the_table(tmp_path):
    # `short` has the lowest score and the easiest goal: what counts is how much of its goal a capability reaches.
    made = report(taught("good", 0.95), taught("bad", 0.5), taught("short", 0.4, goal=0.4))
    write_report(tmp_path, made)
    found = read(tmp_path)
    assert list(found["capabilities"]) == ["bad", "short", "good"]
    assert [row[0] for row in made.rows()] == ["bad", "short", "good"]
    assert [row[-1] for row in made.rows()] == ["missed (goal 0.900)", "met", "met"]
    assert all(len(row) == len(COLUMNS) for row in made.rows())
    assert (found["met"], made.met) == (False, False)
    assert found["capabilities"]["short"]["met"] is True, "the contract itself, without the margin that training keeps"
    assert found["parameters"] == {"backbone": 10, "adapters": 4}


def test_what_is_no_number_is_a_word(tmp_path):
    made = report(taught("one", 0.95, seconds=float("nan")), router={"calibration_error": float("inf"), "ci95": (0, 1)})
    write_report(tmp_path, made)
    found = read(tmp_path)
    assert found["capabilities"]["one"]["seconds"] == "nan"
    assert found["router"] == {"calibration_error": "inf", "ci95": [0, 1]}
    json.dumps(made.as_json(), allow_nan=False)


def test_one_adapter_replaces_its_entry_and_keeps_the_rest(tmp_path):
    write_report(tmp_path, report(taught("a", 0.5), taught("b", 0.95), taught("c", 0.7), router={"n": 7}))
    before = read(tmp_path)
    write_report(tmp_path, report(taught("a", 0.99)), alone=True)
    after = read(tmp_path)
    assert list(after["capabilities"]) == ["c", "b", "a"]
    assert after["capabilities"]["b"] == before["capabilities"]["b"]
    assert after["capabilities"]["c"] == before["capabilities"]["c"]
    assert after["capabilities"]["a"]["score"] == 0.99
    assert after["router"] == {"n": 7}
    assert after["met"] is False
    write_report(tmp_path, report(taught("c", 0.91)), alone=True)
    assert read(tmp_path)["met"] is True


def test_one_adapter_without_a_summary_before_writes_its_own(tmp_path):
    write_report(tmp_path, report(taught("a", 0.99)), alone=True)
    assert list(read(tmp_path)["capabilities"]) == ["a"]


def test_a_run_of_all_keeps_nothing_of_another_plan(tmp_path):
    write_report(tmp_path, report(taught("gone", 0.5), router={"n": 7}))
    write_report(tmp_path, report(taught("a", 0.99)))
    found = read(tmp_path)
    assert (list(found["capabilities"]), found["router"], found["met"]) == (["a"], None, True)


def test_what_the_router_does_is_a_sentence_and_a_matrix():
    router = {
        "accuracy": 0.9,
        "ci95": [0.8125, 0.955],
        "n": 40,
        "microseconds": 41.7,
        "foreign": {"prose": [30, 30], "noise": [9, 10]},
        "confusion": {
            "code": {"code": 19, "tools": 1, "none": 0},
            "tools": {"code": 0, "tools": 17, "none": 3},
        },
    }
    said, headers, rows = router_lines(router)
    assert said == (
        "router: 0.900 right of 40 held-out prompts (0.812 to 0.955), 42 us each; "
        "39 of 40 foreign texts left to the plain backbone"
    )
    assert headers == ["prompts of", "code", "tools", "none"]
    assert rows == [["code", "19", "1", "0"], ["tools", "0", "17", "3"]]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"capabilities": 3, "router": null}', b"\xff"])
def test_a_damaged_summary_is_named_and_left(tmp_path, content):
    path = tmp_path / "distill/summary.json"
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"summary\.json is no summary of a distillation"):
        write_report(tmp_path, report(taught("a", 0.99)), alone=True)
    assert path.read_bytes() == content
    write_report(tmp_path, report(taught("a", 0.99)))
    assert read(tmp_path)["met"] is True
