from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest

WriteJsonl = Callable[[str, Iterable[Mapping[str, Any]]], Path]


@pytest.fixture
def write_jsonl(tmp_path: Path) -> WriteJsonl:
    """Write rows as JSON lines under a name below `tmp_path`."""

    def write(name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


@pytest.fixture
def questions() -> Callable[..., list[dict[str, Any]]]:
    """Rows of uneven length, each with its own number."""

    def make(n: int, first: int = 0) -> list[dict[str, Any]]:
        return [{"question": f"q{i} " + "x" * (i % 300), "answer": f"a{i}"} for i in range(first, first + n)]

    return make
