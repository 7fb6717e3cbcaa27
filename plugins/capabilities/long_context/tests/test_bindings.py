"""A user's own rows: LongBench's keys, L-Eval's lists, and rows that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
from nexus_capability_long_context.bindings import length_stratum, samples_from_row
from nexus_capability_long_context.metric import LongContext, by_stratum

from nexus_core.errors import DataError
from nexus_core.types import SampleRequest, Split

METRIC = LongContext()
TEXT = "The ship left at dawn. Its captain was Ada Byron. " * 30
LAYOUTS: dict[str, dict[str, Any]] = {
    "plain": {"context": TEXT, "question": "Who was the captain?", "answer": "Ada Byron"},
    "input": {"input": TEXT, "question": "Who was the captain?", "answer": "Ada Byron"},
    "LongBench": {"input": "Who was the captain?", "context": TEXT, "answers": ["Ada Byron", "Byron"], "length": 300},
    "L-Eval": {"input": TEXT, "instructions": ["Who was the captain?", "When?"], "outputs": ["Ada Byron", "at dawn"]},
}


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_layout_is_understood(row: dict[str, Any]) -> None:
    samples = samples_from_row(row, "here")
    first = samples[0]
    assert first.prompt == f"{TEXT}\nQuestion: Who was the captain?\nAnswer:"
    assert first.stratum == "512"
    assert METRIC.score(first, "The captain was Ada Byron") == 0.0
    assert [METRIC.score(first, output) for output in ("ada byron.", "The captain is Ada Byron.")] == [1.0, 1.0]
    assert [METRIC.score(sample, sample.target) for sample in samples] == [1.0] * len(samples)
    assert len(samples) == (2 if "outputs" in row else 1)


@pytest.mark.parametrize("row", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_layout_is_read_from_a_path(row: dict[str, Any], tmp_path: Path) -> None:
    key = "context" if "context" in row else "input"
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps({**row, key: f"{TEXT} {i}"}) for i in range(30)), encoding="utf-8")
    splits = {split: list(METRIC.samples(SampleRequest(split, data=str(path)))) for split in Split}
    digests = [{sample.digest for sample in samples} for samples in splits.values()]
    assert all(digests)
    assert len(set.union(*digests)) == sum(map(len, digests)) == (60 if "outputs" in row else 30)
    texts = [{s.prompt.partition("\nQuestion")[0] for s in samples} for samples in splits.values()]
    assert len(set.union(*texts)) == sum(map(len, texts)) == 30  # all questions about a text are in one split
    assert splits[Split.PROFILE] == list(METRIC.samples(SampleRequest(Split.PROFILE, data=str(path))))
    outputs = METRIC.baselines(SampleRequest(Split.VERIFY, data=str(path)))
    scores = METRIC.score_all(splits[Split.VERIFY], outputs["guess"])
    assert by_stratum(splits[Split.VERIFY], scores)["512"].n == len(splits[Split.VERIFY])


HOSTILE: dict[str, tuple[dict[str, Any], str]] = {
    "empty": ({}, "found nothing"),
    "no text": ({"question": "x", "answer": "y"}, "found question, answer"),
    "no question": ({"context": TEXT, "answer": "y"}, "found context, answer"),
    "no answer": ({"context": TEXT, "question": "x"}, "found context, question"),
    "empty answer": ({"context": TEXT, "question": "x", "answers": []}, "none of the keys"),
    "text is a list": ({"context": [TEXT], "question": "x", "answer": "y"}, "not text"),
    "answer is an object": ({"context": TEXT, "question": "x", "answer": {"text": "y"}}, "found dict"),
    "fewer answers": ({"input": TEXT, "instructions": ["a", "b"], "outputs": ["x"]}, "2 questions but 1 answers"),
}


@pytest.mark.parametrize(("row", "says"), HOSTILE.values(), ids=HOSTILE.keys())
def test_rows_that_cannot_be_used_say_where_and_why(row: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match="row 7") as caught:
        samples_from_row(row, "rows.jsonl, row 7")
    assert says in caught.value.message
    assert caught.value.hint


def test_a_path_without_a_text_shows_the_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "x", "answer": "y"}\n', encoding="utf-8")
    with pytest.raises(DataError, match="question, answer") as caught:
        list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(path))))
    assert "context" in caught.value.hint
    with pytest.raises(DataError):
        list(METRIC.samples(SampleRequest(Split.VERIFY, data=str(tmp_path / "missing.jsonl"))))


@pytest.mark.parametrize(
    ("tokens", "stratum"), [(0, "128"), (128, "128"), (129, "256"), (1024, "1024"), (5000, "8192")]
)
def test_length_strata(tokens: int, stratum: str) -> None:
    assert length_stratum(tokens) == stratum
