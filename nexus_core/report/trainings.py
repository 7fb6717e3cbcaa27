"""Loss and anchor error over the steps of every training, thinned to what a picture can show, with its rollbacks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.distill.journal import STEPS, SUMMARY
from nexus_core.distill.material import WORK
from nexus_core.errors import DataError
from nexus_core.report.artifacts import Part, absent, reading
from nexus_core.study.unit import read_json

POINTS = 120
ANCHOR = "anchor_error/"


def trainings_part(run: Path) -> Part:
    """The joint training first, then the adapters by name."""
    journals = sorted((run / WORK).glob(f"*/{STEPS}"), key=lambda path: (path.parent.name != "joint", path))
    if not journals:
        return absent("nothing was taught", "distill", "--run", run)
    return {"rows": [_training(path) for path in journals]}


def _training(path: Path) -> Part:
    with reading(path):
        rows = list(_lines(path))
        steps = [row for row in rows if "event" not in row]
        width = max(1, -(-len(steps) // POINTS))
        bins = [steps[start : start + width] for start in range(0, len(steps), width)]
        rollbacks = [
            {"step": row["step"], "to": row.get("to"), "cause": row["cause"], "detail": row["detail"]}
            for row in rows
            if row.get("event") == "rollback"
        ]
        tried = ("step", "score", "teacher", "retention", "goal", "n", "low", "high", "met")
        evaluations = [{key: row.get(key) for key in tried} for row in rows if row.get("event") == "evaluation"]
    summary = read_json(path.parent / SUMMARY) or {}
    return {
        "name": path.parent.name,
        "steps": len(steps),
        "mean_of": width,
        "points": [_point(rows) for rows in bins],
        "rollbacks": rollbacks,
        "evaluations": evaluations,
        "reason": summary.get("reason", "unfinished"),
        "error": summary.get("error"),
        "seconds": summary.get("seconds"),
        "tokens": summary.get("tokens"),
        "lost": summary.get("lost"),
    }


def _lines(path: Path) -> Iterator[Mapping[str, Any]]:
    """A training that is under way may end in half a line."""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if line.endswith("\n"):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, line {number}: no JSON ({error})", "teach again: nexus distill") from error


def _point(rows: Sequence[Mapping[str, Any]]) -> Part:
    """Means over some steps. A step without anchors has none, and a number that is a word is left out."""
    losses = [row["loss"] for row in rows]
    anchors = [_mean([value for key, value in row.items() if key.startswith(ANCHOR)]) for row in rows]
    return {"step": rows[-1]["step"], "loss": _mean(losses), "anchor": _mean(anchors)}


def _mean(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return sum(numbers) / len(numbers) if numbers else None
