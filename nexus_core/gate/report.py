"""`verify_report.json`: what the gate found, written once and read with distrust.

A verdict is never believed: whoever reads a report computes it again from the figures, compares the contracts with those of
the registry, and the subject with the one that was asked. The report carries a hash of itself, which shows an edit, and no
signature: whoever forges figures, ratios, verdicts and the hash together has written another report, and only asking the
student again can tell.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import write_atomic
from nexus_core.errors import ContractFailed, DataError, NexusError
from nexus_core.gate.conditions import LATENCY
from nexus_core.gate.verdict import FAIL, INCOMPLETE, PASS, contract_json, judge
from nexus_core.registry import Registry

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator

REPORT = "verify_report.json"
FORMAT = 1
HASH = "report_sha256"
_AGAIN = "run `nexus verify` again"


@dataclass(frozen=True, slots=True)
class Report:
    """The content of the file. Its hash covers everything but the latencies, which differ from run to run."""

    body: Mapping[str, Any]

    @property
    def verdict(self) -> str:
        return str(self.body["verdict"])

    @property
    def passed(self) -> bool:
        return self.verdict == PASS

    @property
    def subject_sha256(self) -> str:
        return str(self.body["subject_sha256"])

    @property
    def capabilities(self) -> Mapping[str, Mapping[str, Any]]:
        """By name, the worst first."""
        found: Mapping[str, Mapping[str, Any]] = self.body["capabilities"]
        return found

    @property
    def failing(self) -> list[str]:
        """The capabilities below their contracts."""
        return [name for name, row in self.capabilities.items() if row["verdict"] != PASS]

    def stable(self) -> Report:
        """Without what differs from run to run and place to place: the copy that a bundle carries. Its hash is the same."""
        body = _stable(self.body)
        return Report({**body, HASH: self.body[HASH]})

    def with_variant(self, name: str, part: Mapping[str, Any]) -> Report:
        """With what came of one more variant."""
        return signed({**self.body, "variants": {**self.body["variants"], name: part}})


def signed(body: Mapping[str, Any]) -> Report:
    """A report with the hash of its content."""
    return Report({**body, HASH: _hash(body)})


def summary(report: Report) -> dict[str, Any]:
    """What stands of one report in another one: verdict, subject, and the figures of each capability."""
    keep = ("teacher_score", "student_score", "ratio", "n", "ci95", "margin", "verdict", "reason")
    rows = {name: {key: row[key] for key in keep} for name, row in report.capabilities.items()}
    return {
        "verdict": report.verdict,
        "subject_sha256": report.subject_sha256,
        "reasons": list(report.body["reasons"]),
        "capabilities": rows,
    }


def overall(rows: Mapping[str, Mapping[str, Any]], isolation: str, gaps: Sequence[str]) -> str:
    """The verdict over everything: one failure fails it, and what was not asked leaves it open."""
    if isolation != PASS or not rows or any(row["verdict"] != PASS for row in rows.values()):
        return FAIL
    return INCOMPLETE if gaps else PASS


def write_report(path: Path, report: Report) -> None:
    """The whole file or none of it."""
    text = json.dumps(report.body, indent=1, ensure_ascii=False, allow_nan=False)
    write_atomic(path, (text + "\n").encode())


def read_report(path: Path) -> Report:
    """The report as it was written. A changed or foreign one is an error that says what is wrong with it."""
    try:
        body = json.loads(path.read_bytes(), parse_constant=_refuse)
    except FileNotFoundError as error:
        raise DataError(f"there is no report at {path}", "make it: nexus verify --run RUN") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON ({error})", _AGAIN) from error
    if problem := next(iter(_validator().iter_errors(body)), None):
        where = "/".join(map(str, problem.absolute_path)) or "the report"
        raise DataError(f"{path}: {where}: {problem.message[:200]}", _AGAIN)
    if body[HASH] != _hash(body):
        raise ContractFailed(f"{path} was edited: its hash is not that of its content", _AGAIN)
    return Report(body)


def check_report(report: Report, registry: Registry, subject_sha256: str | None = None) -> list[str]:
    """What is wrong with a report: its arithmetic, its contracts, its subject. Empty when it holds."""
    problems = [problem for name, row in report.capabilities.items() for problem in _check_row(name, row, registry)]
    isolation, gaps = report.body["isolation"]["verdict"], report.body["gaps"]
    if report.verdict != (found := overall(report.capabilities, isolation, gaps)):
        problems.append(f"it says {report.verdict}, and its own figures say {found}")
    if report.body["isolation"]["attempts"] and isolation == PASS:
        problems.append("it calls the isolation sound and lists attempts to break it")
    if subject_sha256 is not None and report.subject_sha256 != subject_sha256:
        problems.append("it is about another student, or the student was changed since")
    return problems


def _check_row(name: str, row: Mapping[str, Any], registry: Registry) -> list[str]:
    try:
        contract = registry.contract(name, row["teacher"])
    except NexusError as error:
        return [f"{name}: {error.message}"]
    if row["metric"] is None:  # it failed before there was a contract to speak of
        return [] if row["verdict"] == FAIL else [f"{name}: it has no contract and did not fail"]
    problems = [
        f"{name}: its contract has {key} {row[key]}, and the registry says {wanted}"
        for key, wanted in contract_json(contract).items()
        if row[key] != wanted
    ]
    scores = row["teacher_score"], row["student_score"]
    if None in scores:
        return problems if row["verdict"] == FAIL else [*problems, f"{name}: it has no score and did not fail"]
    judged = judge(contract, *scores)
    if judged.verdict != row["verdict"] and not (row["verdict"] == FAIL and row["reason"]):
        problems.append(f"{name}: it says {row['verdict']}, and its figures say {judged.verdict}")
    ratio = scores[1] / scores[0] if scores[0] else None
    if (ratio is None) != (row["ratio"] is None) or (ratio is not None and not math.isclose(ratio, row["ratio"])):
        problems.append(f"{name}: its ratio is not that of its scores")
    return problems


def _stable(body: Mapping[str, Any]) -> dict[str, Any]:
    copy = {key: deepcopy(value) for key, value in body.items() if key != HASH}
    for row in copy["conditions"].values():
        row.pop(LATENCY, None)
    # Which other packages Python happens to load depends on where it looks for them; a teacher's plugin is one of ours.
    copy["isolation"]["modules"] = [name for name in copy["isolation"]["modules"] if name.startswith("nexus")]
    return copy


def _hash(body: Mapping[str, Any]) -> str:
    text = json.dumps(_stable(body), sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _refuse(word: str) -> None:
    raise ValueError(f"{word} is no number")


@cache
def _validator() -> Draft202012Validator:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads(files("nexus_core.gate").joinpath("report_schema.json").read_text("utf-8")))
