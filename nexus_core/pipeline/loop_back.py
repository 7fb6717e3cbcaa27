"""From the gate back to stage 4: a failing adapter is taught on, alone, and asked again; a bounded number of times.

What goes back is by how much it failed, and nothing of the samples it failed on: those stay unknown to every training. The
goal that stops its training rises by that much, its steps grow with every return, and it goes on from the weights it has.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import writing
from nexus_core.errors import NexusError
from nexus_core.gate.report import Report, signed
from nexus_core.gate.verdict import FAIL
from nexus_core.gate.verify import GateOrder, verify_subject

if TYPE_CHECKING:
    from nexus_core.distill.run import Taught
    from nexus_core.distill.settings import TeachSettings
    from nexus_core.student.files import Student

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Return:
    """One adapter on its way back, for the `attempt`-th time. `missed` is a share of its teacher's score."""

    capability: str
    missed: float
    attempt: int

    def teaching(self, preset: TeachSettings) -> TeachSettings:
        """More steps, and a goal that is as much higher as the contract was missed by."""
        phases = tuple(replace(phase, steps=phase.steps * (1 + self.attempt)) for phase in preset.phases)
        retention = replace(preset.retention, margin=preset.retention.margin + self.missed)
        return replace(preset, phases=phases, retention=retention)


def verify_with_attempts(order: GateOrder, attempts: int) -> Report:
    """The gate, and back to stage 4 for what fails, at most so often. The report tells each return."""
    report, told = verify_subject(order), []
    for attempt in range(1, attempts + 1):
        if not (returns := returning(report, attempt)):
            break
        entry = _return(order, returns)
        told.append({"attempt": attempt, **entry})
        if entry["adapters"]:  # also where another one could not be taught: the student is not the one that was asked
            report = verify_subject(order)
        if "failed" in entry:
            break
    return signed({**report.body, "attempts": told}) if told else report


def _return(order: GateOrder, returns: Sequence[Return]) -> dict[str, Any]:
    """Teach each on; `failed` says why one could not be, and then those after it are not."""
    entry: dict[str, Any] = {"adapters": []}
    try:
        for one in returns:
            entry["adapters"].append(_teach_again(order, one))
    except NexusError as error:
        order.say(f"no way back to stage 4: {error.message}")
        entry["failed"] = f"{error.message} ({error.hint})"
    return entry


def returning(report: Report, attempt: int) -> list[Return]:
    """The adapters to teach on. None where teaching cannot help: the isolation was broken, or a score is missing."""
    failing = [(name, report.capabilities[name]) for name in report.failing]
    if report.verdict != FAIL or report.body["isolation"]["verdict"] == FAIL:
        return []
    if any(row["margin"] is None or not row["teacher_score"] for _, row in failing):
        return []
    return [Return(name, _missed(row), attempt) for name, row in failing]


def _missed(row: Mapping[str, Any]) -> float:
    """The margin is in units of the contract's limit, which is what the student would have had to reach."""
    limit = row["student_score"] / (1 + row["margin"]) if row["margin"] > -1 else row["teacher_score"]
    return float(abs(row["margin"] * limit / row["teacher_score"]))


def _teach_again(order: GateOrder, one: Return) -> dict[str, Any]:
    """Teach this adapter on, put it into the run's student, and say what was done."""
    from nexus_core.student.files import ADAPTERS, PART, write_adapter

    order.say(f"back to stage 4 with {one.capability}: {one.missed:.1%} short, return {one.attempt}")
    taught, student, steps = teach_on(order, one)
    file = order.subject / ADAPTERS / f"{one.capability}{PART}"
    before = order.run / "distill" / one.capability / f"before_return_{one.attempt}{PART}"
    with writing(before):
        before.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, before)
    write_adapter(order.subject, student.model, one.capability)
    return {**told(one, taught, steps), "replaced": str(before.relative_to(order.run))}


def told(one: Return, taught: Taught, steps: int) -> dict[str, Any]:
    """What the report says of one return."""
    score = taught.measured["score"]
    return {"capability": one.capability, "missed": one.missed, "steps": steps, "profile_score": score}


def teach_on(
    order: GateOrder, one: Return, preset: TeachSettings | None = None, fresh: bool = True
) -> tuple[Taught, Student, int]:
    """The subject with this one adapter taught on, from the weights it has; how it came out, and the steps it took.

    Nothing is written to the subject. `fresh` False goes on from the checkpoints of the same return.
    """
    from nexus_core.distill.material import Gatherer
    from nexus_core.distill.run import Distiller, Order, gather, placed
    from nexus_core.distill.settings import read_teaching
    from nexus_core.student.files import read_student

    student = read_student(order.subject)
    student = replace(student, model=placed(student.model, order.device))
    settings = one.teaching(preset or read_teaching(student.arch.preset))
    gatherer = Gatherer(order.run, order.registry, order.plugins, settings.data)
    materials = gather(gatherer, student, [one.capability])
    asked = Order(
        order.run,
        adapter=one.capability,
        fresh=fresh,
        further=True,
        device=order.device,
        seed=student.arch.seed + one.attempt,
    )
    distiller = Distiller(asked, student, settings, materials, order.say)
    (taught,) = distiller.distill()
    return taught, student, sum(outcome["steps"] for outcome in distiller.outcomes)


def can_go_back(run: Path, subject: Path) -> bool:
    """Whether the subject is the run's own student: a bundle is not taught on."""
    from nexus_core.distill.run import STUDENT

    return subject.resolve() == (run / STUDENT).resolve()
