"""Whether a student keeps its contract: arithmetic on figures, when they are measured and when they are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from nexus_core.types import CapabilityMetric, Contract, Direction, Sample

PASS, FAIL, INCOMPLETE = "pass", "fail", "incomplete"
ROUNDING = 1e-12  # 0.97 * 0.6 is a little more than 0.582 in binary, and 291 right of 500 is just that
NEVER = -math.inf  # the margin of what has no score: worse than any that has one


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured of one capability, both on the same `n` samples."""

    teacher_score: float
    student_score: float
    ratio: float | None
    ci95: tuple[float, float] | None
    n: int


@dataclass(frozen=True, slots=True)
class Judged:
    """`margin` is how far the score is on the right side of the contract, in units of the contract's limit."""

    verdict: str
    margin: float
    reason: str


@dataclass(frozen=True, slots=True)
class Result:
    """One capability before the gate. Without figures it has failed, and `reason` says why there are none."""

    capability: str
    teacher: str
    contract: Contract | None
    figures: Figures | None
    reason: str = ""

    @property
    def judged(self) -> Judged:
        """The verdict follows from the figures and the contract, and from nothing that anybody says."""
        if self.reason or self.contract is None or self.figures is None:
            return Judged(FAIL, NEVER, self.reason or "it has no score")
        return judge(self.contract, self.figures.teacher_score, self.figures.student_score)

    def as_json(self) -> dict[str, Any]:
        """Its entry in the report."""
        judged, contract = self.judged, self.contract
        none = {"teacher_score": None, "student_score": None, "ratio": None, "ci95": None, "n": 0}
        measured = none if self.figures is None else asdict(self.figures)
        return {
            "metric": contract.metric if contract else None,
            "direction": contract.direction.value if contract else None,
            "benchmark": contract.benchmark if contract else None,
            "teacher": self.teacher,
            **{name: list(value) if isinstance(value, tuple) else value for name, value in measured.items()},
            "retain_fraction": contract.retain_fraction if contract else None,
            "minimum": contract.minimum if contract else None,
            "margin": judged.margin if math.isfinite(judged.margin) else None,
            "verdict": judged.verdict,
            "reason": judged.reason,
        }


def judge(contract: Contract, teacher: float, student: float) -> Judged:
    """Higher is better: at least the share of the teacher's score, and at least the minimum. Lower: at most that share."""
    if not (math.isfinite(teacher) and math.isfinite(student)):
        return Judged(FAIL, NEVER, "a score is not a number")
    if contract.relative_to != "teacher":
        return Judged(
            FAIL, NEVER, f"its contract is relative to the {contract.relative_to}, which this gate does not ask"
        )
    higher = contract.direction is Direction.HIGHER
    limits: dict[float, str] = {}
    if contract.retain_fraction is not None:
        if higher and teacher <= 0:
            return Judged(FAIL, NEVER, f"its teacher scores {teacher:g}, of which no share can be retained")
        limits[contract.retain_fraction * teacher] = f"{contract.retain_fraction:g} of the teacher's {teacher:.4g}"
    if contract.minimum is not None:
        limits[contract.minimum] = f"the minimum {contract.minimum:g}"
    if not limits:
        return Judged(FAIL, NEVER, "its contract demands nothing")
    limit = max(limits) if higher else min(limits)
    better = student - limit if higher else limit - student
    margin = better / (abs(limit) or 1.0)
    if better >= -ROUNDING * abs(limit):
        return Judged(PASS, margin, "")
    side = "below" if higher else "above"
    return Judged(FAIL, margin, f"{student:.4g} is {side} {limit:.4g}, which is {limits[limit]}")


def measure(
    metric: CapabilityMetric, samples: Sequence[Sample], teacher: Sequence[float], student: Sequence[float], draws: int
) -> Figures:
    """Both values and their ratio, with an interval from `draws` resamples of the questions (the same for both)."""
    values = metric.aggregate(samples, teacher), metric.aggregate(samples, student)
    ratio = values[1] / values[0] if values[0] else None
    interval = None if ratio is None else _ratio_interval(metric, samples, (teacher, student), draws)
    return Figures(float(values[0]), float(values[1]), ratio, interval, len(samples))


def _ratio_interval(
    metric: CapabilityMetric, samples: Sequence[Sample], scores: tuple[Sequence[float], Sequence[float]], draws: int
) -> tuple[float, float] | None:
    """Percentiles of the ratio over resampled questions. None where too few answers are right to say anything."""
    import numpy as np

    teacher, student = (np.asarray(one, dtype=np.float64) for one in scores)
    rows = np.random.default_rng(42).integers(0, len(samples), size=(draws, len(samples)))
    if type(metric).aggregate is CapabilityMetric.aggregate:  # a mean
        below, above = teacher[rows].mean(axis=1), student[rows].mean(axis=1)
    else:
        pairs = [
            [metric.aggregate([samples[i] for i in row], list(of[row])) for of in (teacher, student)] for row in rows
        ]
        below, above = np.asarray(pairs).T
    if not (below > 0).all():
        return None
    low, high = np.percentile(above / below, [2.5, 97.5])
    return float(low), float(high)


def worst_first(results: Sequence[Result]) -> list[Result]:
    """By margin; what has no score comes first."""
    return sorted(results, key=lambda result: (result.judged.margin, result.capability))


def contract_json(contract: Contract) -> Mapping[str, Any]:
    """What of a contract stands in a report, and must be the registry's when it is read."""
    return {
        "metric": contract.metric,
        "direction": contract.direction.value,
        "benchmark": contract.benchmark,
        "retain_fraction": contract.retain_fraction,
        "minimum": contract.minimum,
    }
