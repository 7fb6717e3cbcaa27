"""Stage 5: the student is asked, and what fails goes back: taught on (to stage 4), or given more room first (to stage 3).

Each of these is a unit of its own, so a run that was killed in the second return goes on there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import write_atomic
from nexus_core.distill.journal import finite
from nexus_core.gate.report import HASH, Report, overall, read_report, signed, write_report
from nexus_core.gate.verdict import Result, worst_first
from nexus_core.gate.verify import GateOrder, verify_subject
from nexus_core.pipeline.loop_back import Return, teach_on, told
from nexus_core.pipeline.stages.student import Parts, put_together
from nexus_core.pipeline.units import Desk, Estimate, Unit, digest_of, file_digest
from nexus_core.pipeline.work.profile import unable
from nexus_core.pipeline.work.teach import MADE, PLANS, lesson, plan_path, student_size, write_taught
from nexus_core.student.arch import ARCH, read_arch, write_arch
from nexus_core.student.files import ADAPTERS, PART

if TYPE_CHECKING:
    from nexus_core.pipeline.bench import Bench
    from nexus_core.student.arch import StudentArch

STUDENT = "student"
VERIFIED = "verify"
UPDATED = "updated"  # the attempt with what `nexus capability update` has taught again


@dataclass(frozen=True, slots=True)
class Subject:
    """The student before the gate: its parts, and the digest of everything that made them."""

    parts: Parts
    digest: str

    def with_part(self, unit: Unit, capability: str, file: Path, plan: Path | None = None) -> Subject:
        """With another adapter, which `unit` made; `plan` if it has another shape."""
        adapters = {**self.parts.adapters, capability: file}
        parts = replace(self.parts, adapters=adapters, plan=plan or self.parts.plan)
        return Subject(parts, digest_of(before=self.digest, unit=unit.digest))

    def updated(self, files: Mapping[str, Path]) -> Subject:
        """With adapters that were taught again after the run's own training."""
        has = {name: file for name, file in files.items() if (self.parts.whole / ADAPTERS / f"{name}{PART}").is_file()}
        digest = digest_of(before=self.digest, files={name: file_digest(file) for name, file in has.items()})
        return Subject(replace(self.parts, adapters={**self.parts.adapters, **has}), digest)


def report_path(run: Path, attempt: int | str) -> Path:
    """What the gate said at its `attempt`-th time, from 0."""
    return run / VERIFIED / f"{attempt}.json"


def order_of(bench: Bench, desk: Desk) -> GateOrder:
    """For the run's own student."""
    return GateOrder(
        bench.run / STUDENT,
        bench.run,
        bench.registry,
        bench.plugins,
        samples=bench.gate_samples,
        device=bench.options.device,
        say=desk.say,
    )


def verify_unit(bench: Bench, subject: Subject, attempt: int | str) -> Unit:
    """Every contract, asked of this student."""
    contracts = {pair.name: bench.contract(pair) for pair in bench.pairs}
    digest = digest_of(
        subject=subject.digest,
        contracts=contracts,
        gate=asdict(bench.registry.gate),
        samples=bench.gate_samples,
        device=bench.options.device,
    )
    return Unit(f"verify/{attempt}", 5, digest, partial(_verify, bench, subject, attempt), _estimate(bench))


def _verify(bench: Bench, subject: Subject, attempt: int | str, desk: Desk) -> Sequence[Path]:
    stand(bench, subject)
    report = with_unplanned(verify_subject(order_of(bench, desk)), unplanned(bench, read_arch(subject.parts.plan)))
    path = report_path(bench.run, attempt)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_report(path, report)
    return [path]


def stand(bench: Bench, subject: Subject) -> None:
    """The student and its plan in the places where every command looks for them."""
    put_together(subject.parts, bench.run / STUDENT)
    plan = subject.parts.plan.read_bytes()
    if not (bench.run / ARCH).is_file() or (bench.run / ARCH).read_bytes() != plan:
        write_atomic(bench.run / ARCH, plan)


def unplanned(bench: Bench, arch: StudentArch) -> list[Result]:
    """What was selected and has no adapter, because nothing in its profiles could be planned: its contract is not kept.

    Where no teacher has the capability there is nothing to keep: that is dropped, and the registry's report says so.
    """
    has = {adapter.capability for adapter in arch.adapters}
    found = []
    for pair in bench.pairs:
        if pair.capability not in has and not unable(bench.run, pair):
            why = (
                "; ".join(d.reason for d in arch.decisions if d.subject == pair.name)
                or "the plan has no adapter for it"
            )
            found.append(Result(pair.capability, pair.teacher, None, None, why))
    return list({result.capability: result for result in found}.values())


def with_unplanned(report: Report, missing: Sequence[Result]) -> Report:
    """What could not be planned has failed."""
    if not missing:
        return report
    body = {key: value for key, value in report.body.items() if key != HASH}
    rows = {**{result.capability: result.as_json() for result in worst_first(missing)}, **body["capabilities"]}
    reasons = [f"{result.capability}: {result.reason}" for result in missing]
    verdict = overall(rows, body["isolation"]["verdict"], body["gaps"])
    return signed({**body, "verdict": verdict, "capabilities": rows, "reasons": [*reasons, *body["reasons"]]})


def return_unit(bench: Bench, subject: Subject, verified: Unit, one: Return) -> tuple[Unit, Subject]:
    """This adapter taught on; and the student with it."""
    settings = one.teaching(bench.options.teaching(bench.rung))
    digest = digest_of(subject=subject.digest, verified=verified.digest, settings=settings.as_json(), one=asdict(one))
    name = f"return/{one.attempt}/{one.capability}"
    unit = Unit(name, 4, digest, partial(_return, bench, subject, one), _teaching_estimate(bench, one))
    return unit, subject.with_part(unit, one.capability, _made_adapter(bench, one))


def _made(bench: Bench, one: Return) -> Path:
    return bench.run / MADE / f"return_{one.attempt}"


def _made_adapter(bench: Bench, one: Return) -> Path:
    return _made(bench, one) / ADAPTERS / f"{one.capability}{PART}"


def told_path(bench: Bench, one: Return) -> Path:
    """What the report says of this return."""
    return _made(bench, one) / f"{one.capability}.json"


def _return(bench: Bench, subject: Subject, one: Return, desk: Desk) -> Sequence[Path]:
    from nexus_core.student.files import write_adapter

    stand(bench, subject)
    desk.say(f"{one.missed:.1%} short, return {one.attempt}")
    taught, student, steps = teach_on(order_of(bench, desk), one, bench.options.teaching(bench.rung), desk.fresh)
    adapter = _made_adapter(bench, one)
    adapter.parent.mkdir(parents=True, exist_ok=True)
    write_adapter(_made(bench, one), student.model, one.capability)
    return [adapter, _tell(told_path(bench, one), told(one, taught, steps))]


def growth_units(bench: Bench, subject: Subject, verified: Unit, one: Return) -> tuple[Unit, Unit, Subject]:
    """More rank for this adapter, which is then taught anew; and the student with it."""
    digest = digest_of(subject=subject.digest, verified=verified.digest, factor=bench.rung.growth, one=asdict(one))
    name = f"grown_{one.attempt}_{one.capability}"
    plan = Unit(f"{PLANS}/{name}", 3, digest, partial(_grow, bench, subject, name, one), Estimate(2.0))
    settings = one.teaching(bench.options.teaching(bench.rung))
    taught = digest_of(plan=plan.digest, settings=settings.as_json())
    path = plan_path(bench.run, name)
    work = partial(_teach_grown, bench, subject, path, one)
    unit = Unit(f"return/{one.attempt}/{one.capability}", 4, taught, work, _teaching_estimate(bench, one))
    return plan, unit, subject.with_part(unit, one.capability, _made_adapter(bench, one), path)


def _grow(bench: Bench, subject: Subject, name: str, one: Return, desk: Desk) -> Sequence[Path]:
    from nexus_core.architect.grow import grow
    from nexus_core.pipeline.stages.architect import architect_of

    arch = read_arch(subject.parts.plan)
    budget = architect_of(bench.run, bench.registry, bench.pairs).budget(arch)
    grown = grow(arch, one.capability, bench.rung.growth, budget)
    path = plan_path(bench.run, name)
    write_arch(path, grown)
    desk.say(grown.decisions[-1].reason)
    return [path]


def _teach_grown(bench: Bench, subject: Subject, plan: Path, one: Return, desk: Desk) -> Sequence[Path]:
    from nexus_core.distill.run import Order, placed
    from nexus_core.pipeline.stages.distill import grown_student, teach
    from nexus_core.student.files import read_student, write_adapter

    stand(bench, subject)
    student = grown_student(read_student(bench.run / STUDENT), read_arch(plan), one.capability)
    placed(student.model, bench.options.device)
    order = Order(
        bench.run,
        adapter=one.capability,
        fresh=desk.fresh,
        device=bench.options.device,
        seed=bench.options.seed + one.attempt,
    )
    own = lesson(bench, order, desk)
    own = replace(own, settings=one.teaching(own.settings))
    (taught,), seconds = teach(own, student, [one.capability])
    adapter = _made_adapter(bench, one)
    adapter.parent.mkdir(parents=True, exist_ok=True)
    write_adapter(_made(bench, one), student.model, one.capability)
    steps = sum(int(training.get("steps", 0)) for training in taught.trainings)
    entry = {**told(one, taught, steps), "grown": read_arch(plan).decisions[-1].reason}
    facts = write_taught(_made(bench, one) / f"{one.capability}_taught.json", [taught], seconds)
    return [adapter, _tell(told_path(bench, one), entry), facts]


def _tell(path: Path, entry: dict[str, Any]) -> Path:
    write_atomic(path, (json.dumps(finite(entry), indent=1, allow_nan=False) + "\n").encode())
    return path


def publish(run: Path, report: Report, attempts: Sequence[dict[str, Any]]) -> Report:
    """The report of the last time, with every return, where every command looks for it."""
    final = signed({**{k: v for k, v in report.body.items() if k != HASH}, "attempts": list(attempts)})
    path = run / "verify_report.json"
    if not (path.is_file() and _same(path, final)):
        write_report(path, final)
    return final


def _same(path: Path, final: Report) -> bool:
    """Whether it lies there already, perhaps with variants that were made of the student since."""
    from nexus_core.errors import NexusError

    try:
        there = read_report(path).body
    except NexusError:
        return False
    body = {key: value for key, value in there.items() if key != HASH}
    return bool(signed({**body, "variants": {}}).body[HASH] == final.body[HASH])


def _estimate(bench: Bench) -> Estimate:
    costs, size = bench.measured, student_size(bench)
    asked = sum(bench.gate_samples * bench.characters(pair) for pair in bench.pairs)
    return Estimate(costs.fixed + costs.ask * size * asked, costs.memory_mb + 12 * size / 2**20, 2.0)


def _teaching_estimate(bench: Bench, one: Return) -> Estimate:
    costs, size = bench.measured, student_size(bench)
    steps = sum(p.steps for p in one.teaching(bench.options.teaching(bench.rung)).phases if not p.together)
    seconds = costs.fixed + steps * costs.step * size / costs.step_parameters
    return Estimate(seconds, costs.memory_mb + 24 * size / 2**20, 60 * size / 2**20)
