"""Foreign data: the common layouts of tool-calling rows, BFCL's files, and rows that cannot be used."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from nexus_capability_tools import bindings
from nexus_capability_tools.metric import Tools, validity

from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

METRIC = Tools()
TOOL = {
    "name": "area",
    "description": "Area of a rectangle.",
    "parameters": {
        "type": "object",
        "properties": {"width": {"type": "number"}, "height": {"type": "number"}},
        "required": ["width", "height"],
    },
}
CALL = {"name": "area", "arguments": {"width": 2, "height": 3}}
TEXT = "How large is 2 by 3?"
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"tools": [TOOL], "question": TEXT, "answer": CALL},
    "json text": {"tools": json.dumps([TOOL]), "query": TEXT, "answers": json.dumps([CALL])},
    "openai": {
        "tools": [{"type": "function", "function": TOOL}],
        "messages": [{"role": "user", "content": TEXT}],
        "tool_calls": [{"type": "function", "function": {"name": "area", "arguments": json.dumps(CALL["arguments"])}}],
    },
    "bare arguments": {
        "functions": {"name": "area", "parameters": {"width": {"type": "int"}, "height": {"type": "int"}}},
        "input": TEXT,
        "target": json.dumps(CALL),
    },
    "bfcl": {
        "function": [{**TOOL, "parameters": {**TOOL["parameters"], "type": "dict"}}],  # type: ignore[dict-item]
        "question": [[{"role": "user", "content": TEXT}]],
        "ground_truth": [{"area": {"width": [2], "height": [3, 3.5]}}],
    },
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_layout_gives_the_same_sample(row: dict[str, Any]) -> None:
    sample = bindings.sample_from_row(row, "here")
    assert TEXT in sample.prompt
    assert '"area"' in sample.prompt
    assert json.loads(sample.target) == CALL
    assert METRIC.score(sample, sample.target) == 1.0
    assert METRIC.score(sample, '{"name": "area", "arguments": {"width": 3, "height": 2}}') == 0.0


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_layout_is_read_from_a_path(row: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    key = next(key for key in ("question", "query", "input", "messages") if key in row)
    asked = [json.loads(json.dumps(row[key]).replace(TEXT, f"{TEXT} ({i})")) for i in range(40)]
    path.write_text("\n".join(json.dumps({**row, key: question}) for question in asked), encoding="utf-8")
    splits = {split: list(METRIC.samples(SampleRequest(split, data=str(path)))) for split in Split}
    digests = [{sample.digest for sample in samples} for samples in splits.values()]
    assert all(digests)
    assert len(set.union(*digests)) == 40 == sum(map(len, digests))
    assert splits[Split.VERIFY] == list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(path))))
    assert len(list(METRIC.samples(SampleRequest(Split.VERIFY, 3, data=str(path))))) == 3
    outputs = METRIC.baselines(SampleRequest(Split.VERIFY, data=str(path)))
    assert all(len(answers) == len(splits[Split.VERIFY]) for answers in outputs.values())


GOOD = LAYOUTS["plain"]
HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "found nothing"),
    "no tools": ({"question": TEXT, "answer": CALL}, "found question, answer"),
    "no question": ({"tools": [TOOL], "answer": CALL}, "found tools, answer"),
    "no answer": ({"tools": [TOOL], "question": TEXT}, "found tools, question"),
    "null answer": ({**GOOD, "answer": None}, "none of the keys"),
    "two calls": ({**GOOD, "answer": [CALL, CALL]}, "2 calls"),
    "another tool": ({**GOOD, "answer": {**CALL, "name": "volume"}}, "volume"),
    "prose as answer": ({**GOOD, "answer": "six"}, "not JSON"),
    "a number as answer": ({**GOOD, "answer": 6}, "no call"),
    "arguments are a list": ({**GOOD, "answer": {"name": "area", "arguments": [2, 3]}}, "no call"),
    "tools are a number": ({**GOOD, "tools": 3}, "no tools"),
    "broken tools": ({**GOOD, "tools": '[{"name": '}, "not JSON"),
    "deep tools": ({**GOOD, "tools": "[" * 100_000}, "not JSON"),
    "tool without a name": ({**GOOD, "tools": [{"parameters": {}}]}, "without a name"),
    "parameters are text": ({**GOOD, "tools": [{"name": "area", "parameters": "x"}]}, "not an object"),
    "broken schema": (
        {**GOOD, "tools": [{"name": "area", "parameters": {"type": "house", "properties": {}}}]},
        "schema",
    ),
    "messages of bytes": ({**GOOD, "question": [{"role": "user", "content": 3}]}, "neither text nor messages"),
    "no user message": ({**GOOD, "question": [{"role": "assistant", "content": "x"}]}, "neither text nor messages"),
}


@pytest.mark.parametrize(("row", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_rows_that_cannot_be_used_say_where_and_why(row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError) as caught:
        bindings.sample_from_row(row, "rows.jsonl, row 7")
    assert says in caught.value.message
    assert caught.value.hint
    assert "rows.jsonl, row 7" in caught.value.message


def test_a_path_without_tools_shows_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x", "answer": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="question, answer") as caught:
        list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(path))))
    assert "tools" in caught.value.hint
    with pytest.raises(DataError):
        list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(tmp_path / "missing.jsonl"))))


def test_bfcl_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        list(METRIC.samples(SampleRequest(Split.VERIFY, data="bfcl")))
    assert bindings.BFCL_PACKAGE in caught.value.hint


def test_bfcl_files_in_a_folder_are_joined_with_their_answers(tmp_path: Path) -> None:
    (tmp_path / "possible_answer").mkdir()
    rows, answers = [], []
    for i in range(30):
        asked = [[{"role": "user", "content": f"Area of {i} by 3?"}]]
        rows.append({"id": f"s{i}", "question": asked, "function": LAYOUTS["bfcl"]["function"]})
        answers.append({"id": f"s{i}", "ground_truth": [{"area": {"width": [i], "height": [3]}}]})
    for folder, content in ((tmp_path, rows), (tmp_path / "possible_answer", answers)):
        text = "\n".join(map(json.dumps, content))
        (folder / "BFCL_v4_simple_python.json").write_text(text, encoding="utf-8")
    for data in (tmp_path, tmp_path / "BFCL_v4_simple_python.json"):
        samples = [s for split in Split for s in METRIC.samples(SampleRequest(split, data=str(data)))]
        assert len(samples) == 30
        assert {s.stratum for s in samples} == {"simple_python"}
        assert METRIC.score_all(samples, [s.target for s in samples]) == [1.0] * 30
    (tmp_path / "BFCL_v4_simple_python.json").write_text("{broken", encoding="utf-8")
    with pytest.raises(DataError, match="line 1"):
        list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(tmp_path))))


@pytest.fixture(scope="module")
def bfcl() -> dict[Split, list[Sample]]:
    pytest.importorskip("bfcl_eval", reason=f"pip install --no-deps {bindings.BFCL_PACKAGE}")
    return {split: list(METRIC.samples(SampleRequest(split, data="bfcl"))) for split in Split}


def test_bfcl_is_whole_disjoint_and_answers_itself(bfcl: dict[Split, list[Sample]]) -> None:
    assert sum(map(len, bfcl.values())) == 600  # 400 simple and 200 multiple
    for left, right in itertools.combinations(Split, 2):
        assert not {s.digest for s in bfcl[left]} & {s.digest for s in bfcl[right]}
    for samples in bfcl.values():
        targets = [sample.target for sample in samples]
        assert METRIC.aggregate(samples, METRIC.score_all(samples, targets)) == 1.0
        assert validity(samples, targets) == 1.0


def test_bfcl_baselines_are_low(bfcl: dict[Split, list[Sample]]) -> None:
    request = SampleRequest(Split.VERIFY, data="bfcl")
    for name, answers in METRIC.baselines(request).items():
        assert METRIC.aggregate(bfcl[Split.VERIFY], METRIC.score_all(bfcl[Split.VERIFY], answers)) < 0.1, name
