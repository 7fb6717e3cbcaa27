"""Where the student is worse than its mean: by length of the prompt, by kind of sample, in a batch; and how fast it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.gate import REPORT, read_report
from nexus_core.gate.conditions import LATENCY
from nexus_core.report.artifacts import Part, absent, reading, share


def conditions_part(run: Path) -> Part:
    """The gate's sweep, capability by capability in the order of its report."""
    if not (run / REPORT).exists():
        return absent("the student was not verified, so nothing is known of the conditions", "verify", "--run", run)
    report = read_report(run / REPORT)
    with reading(run / REPORT):
        rows = [
            _capability(name, report.body["conditions"][name], row["direction"])
            for name, row in report.capabilities.items()
            if name in report.body["conditions"]
        ]
    return {"rows": rows} if rows else absent("no capability gave answers that could be scored")


def _capability(name: str, found: Mapping[str, Any], direction: str | None) -> Part:
    strata = [{"name": kind, **_scores(part)} for kind, part in found["stratum"].items()]
    batch, latency = found["batch"], found.get(LATENCY) or {}
    return {
        "capability": name,
        "length": [
            {"from": part["characters"][0], "to": part["characters"][1], **_scores(part)} for part in found["length"]
        ],
        "strata": _worst_first(strata, direction),
        "batch": {key: batch[key] for key in ("size", "n", "equal", "score", "score_alone")},
        "truncated": found["truncated"],
        "ms_per_token": latency.get("ms_per_token"),
        "low": latency.get("p10"),
        "high": latency.get("p90"),
    }


def _scores(part: Mapping[str, Any]) -> Part:
    student, teacher = part["student_score"], part["teacher_score"]
    return {"n": part["n"], "teacher": teacher, "student": student, "ratio": share(student, teacher)}


def _worst_first(strata: Sequence[Part], direction: str | None) -> list[Part]:
    sign = -1 if direction == "lower" else 1
    return sorted(strata, key=lambda part: (part["ratio"] is None, sign * (part["ratio"] or 0), part["name"]))
