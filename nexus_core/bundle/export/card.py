"""What an export says of itself: the lines of its table, `export_report.json`, and a README.md."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic

REPORT, README, LICENSE = "export_report.json", "README.md", "LICENSE"
COLUMNS = (
    "capability",
    "asked",
    "metric",
    "score",
    "bundle",
    "of bundle",
    "of teacher",
    "same answers",
    "n",
    "contract",
)


@dataclass(frozen=True, slots=True)
class Line:
    """One capability of the export, asked in one way, beside the bundle on the same samples.

    The teacher's score is that of the gate's `gate_n` samples, the first `n` of which were asked here.
    `kept` is the verdict: the contract where there is one, else whether the answers are the bundle's own.
    """

    capability: str
    asked: str
    metric: str
    direction: str
    data: str
    seed: int
    n: int
    gate_n: int
    score: float
    ci95: tuple[float, float]
    bundle_score: float
    ratio_to_bundle: float | None
    teacher_score: float | None
    ratio_to_teacher: float | None
    same_answers: float
    retain_fraction: float | None
    minimum: float | None
    in_contract: bool | None
    kept: bool
    reason: str

    def words(self) -> str:
        """The scores in a sentence."""
        asked = f" ({self.asked})" if self.asked else ""
        teacher = "" if self.teacher_score is None else f", the teacher {self.teacher_score:.3f}"
        return f"{self.capability}{asked}: {self.score:.3f}, the bundle {self.bundle_score:.3f}{teacher}"

    def cells(self) -> list[str]:
        """A row of the table."""
        contract = "none" if self.in_contract is None else "yes" if self.in_contract else "NO"
        shares = [_share(self.ratio_to_bundle), _share(self.ratio_to_teacher), f"{self.same_answers:.1%}"]
        scores = [f"{self.score:.3f}", f"{self.bundle_score:.3f}"]
        return [self.capability, self.asked, self.metric, *scores, *shares, self._count(), contract]

    def _count(self) -> str:
        return str(self.n) if self.n == self.gate_n else f"{self.n} of the gate's {self.gate_n}"


@dataclass(frozen=True, slots=True)
class ExportReport:
    """The content of export_report.json. `blocks` of the export, of which `bottlenecks` are a bottleneck each."""

    bundle: str
    bundle_sha256: str
    to: str
    dtype: str
    capabilities: tuple[str, ...]
    blocks: int
    bottlenecks: int
    parameters: int
    tokenizer_rule: str | None
    tokenizer_same: float | None
    tried_with: str
    limits: tuple[str, ...]
    lines: tuple[Line, ...]
    format_version: int = 1

    @property
    def failing(self) -> list[Line]:
        """The lines that are below their contract, or answer otherwise than the bundle where there is none."""
        return [line for line in self.lines if not line.kept]

    @property
    def verdict(self) -> str:
        return "fail" if self.failing else "pass"

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict}

    def write(self, folder: Path, use: str, licence: str) -> None:
        """The report, the README and the licences of the teachers."""
        text = json.dumps(self.as_json(), indent=1, sort_keys=True, allow_nan=False)
        write_atomic(folder / REPORT, f"{text}\n".encode())
        write_atomic(folder / README, self._readme(use).encode())
        write_atomic(folder / LICENSE, licence.encode())

    def _readme(self, use: str) -> str:
        what = " and ".join(self.capabilities) or "the plain backbone"
        lines = [f"# {self.bundle}: {what}, as {self.to}", "", use.strip(), "", "## What it keeps", ""]
        lines += [f"Tried with {self.tried_with} on held-out samples, after it was written.", "", *_table(self.lines)]
        if self.failing:
            lines += ["", "**It does not keep everything:**", "", *(f"* {_why(line)}" for line in self.failing)]
        lines += ["", "## What this form cannot say", "", *(f"* {limit}" for limit in self.limits), ""]
        return "\n".join(lines)


def failure(report: ExportReport) -> str:
    """Why the export is not given out."""
    return "; ".join(_why(line) for line in report.failing)


def _why(line: Line) -> str:
    asked = f" ({line.asked})" if line.asked else ""
    fewer = "" if line.n == line.gate_n else f" (asked {line.n} of the gate's {line.gate_n} samples)"
    return f"{line.capability}{asked}: {line.reason}{fewer}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(lines: Sequence[Line]) -> list[str]:
    rows = [COLUMNS, ["---"] * len(COLUMNS), *(line.cells() for line in lines)]
    return [f"| {' | '.join(row)} |" for row in rows]
