"""Run a plan: unit after unit, each done once, whatever happens in between."""

from __future__ import annotations

import json
import random
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from nexus_core.atomic import write_atomic
from nexus_core.distill.recovery import DistillFailed
from nexus_core.errors import DataError, NexusError, UsageError
from nexus_core.gate.report import Report, read_report
from nexus_core.gate.verdict import PASS
from nexus_core.pipeline.capability import updated_adapters
from nexus_core.pipeline.loop_back import returning
from nexus_core.pipeline.plan import STAGES, Plan, documents, write_rounds
from nexus_core.pipeline.stages.student import write_summary
from nexus_core.pipeline.units import Desk, Unit
from nexus_core.pipeline.work.finish import bundle_unit, report_unit
from nexus_core.pipeline.work.gate import (
    UPDATED,
    Subject,
    growth_units,
    publish,
    report_path,
    return_unit,
    stand,
    told_path,
    verify_unit,
)
from nexus_core.pipeline.work.teach import MADE, made_path

if TYPE_CHECKING:
    from nexus_core.pipeline.loop_back import Return

FAILED = 3


class Telling(Protocol):
    """Where events go; see `nexus_core.pipeline.events.Events`."""

    def emit(self, kind: Any, **facts: Any) -> None: ...

    def clock(self) -> float: ...


class Passing(Protocol):
    """The state's stage; see `nexus_core.state.StateStore`."""

    def pass_stage(self, stage: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended. `report` None: stage 5 was not reached."""

    status: int
    report: Report | None = None
    bundle: Path | None = None
    page: Path | None = None


@dataclass(slots=True, eq=False)
class Engine:
    """One start of a run. `last` is the stage to stop after."""

    plan: Plan
    events: Telling
    state: Passing
    last: int = 6
    did: list[str] = field(default_factory=list)  # units that were not reused
    told: list[dict[str, Any]] = field(default_factory=list)  # returns to earlier stages

    def run(self) -> Ended:
        """All stages up to the last one."""
        rows = self.plan.rows
        plan = [
            {"unit": r.unit.name, "stage": r.unit.stage, "estimate": r.unit.estimate.seconds, "done": r.done}
            for r in rows
        ]
        self.events.emit("run_started", plan=plan)
        try:
            ended = self._stages()
        except (KeyboardInterrupt, NexusError) as error:
            status = error.exit_code if isinstance(error, NexusError) else 128 + getattr(error, "signum", signal.SIGINT)
            self.events.emit("run_ended", status=status, verdict=None, bundle=None, report=None)
            raise
        verdict = ended.report.verdict if ended.report else None
        self.events.emit("run_ended", status=ended.status, verdict=verdict, bundle=ended.bundle, report=ended.page)
        return ended

    def _stages(self) -> Ended:
        for stage in (0, 1)[: self.last + 1]:
            with self._stage(stage):
                self._write_documents()
        for stage in (2, 3, 4):
            if stage > self.last:
                return Ended(0)
            with self._stage(stage):
                self._reach(stage)
        if self.last < 5:
            return Ended(0)
        with self._stage(5):
            report, verified = self._gate()
        return self._finish(report, verified)

    def _reach(self, stage: int) -> None:
        """All units of a stage. Stage 3 begins with the plan of the first round; those of later rounds need its student."""
        if stage == 4:
            write_rounds(self.plan.bench)
            for unit in self.plan.of(3, 4):
                self.do(unit)
            self._write_documents()
            self._summarise()
        else:
            for unit in self.plan.of(stage)[: 1 if stage == 3 else None]:
                self.do(unit)

    # --- stages 0 and 1 ---------------------------------------------------------------------------------------------

    def _write_documents(self) -> None:
        self.plan.bench.hashes.save()
        for name, content in documents(self.plan).items():
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            path = self.plan.bench.run / name
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                write_atomic(path, text.encode())

    # --- stages 4 to 6 ----------------------------------------------------------------------------------------------

    def _summarise(self) -> None:
        from nexus_core.architect.sizes import sizes
        from nexus_core.distill.report import SUMMARY
        from nexus_core.student.arch import read_arch

        bench = self.plan.bench
        made = [made_path(bench.run, unit.name.partition("/")[2]).with_suffix(".json") for unit in self._taught()]
        parts = sizes(read_arch(self.plan.subject.parts.plan)).parts
        write_summary(bench.run / SUMMARY, made, bench.run / MADE / "router.json", parts)

    def _taught(self) -> list[Unit]:
        return [unit for unit in self.plan.of(4) if unit.name != "distill/router"]

    def _gate(self) -> tuple[Report, Unit]:
        """Ask; back to stage 4 with what fails, so many times; then back to stage 3, so many times."""
        bench, attempt = self.plan.bench, 0
        subject, verified = self._routed(self.plan.subject), self.plan.unit("verify/0")
        report = self._ask(verified, attempt)
        allowed = min(bench.rung.returns, bench.registry.gate.attempts)
        for attempt in range(1, allowed + bench.rung.growths + 1):
            if not (failing := returning(report, attempt)):
                break
            before = subject
            for one in failing:
                subject = self._back(subject, verified, one, grow=attempt > allowed)
            if subject.digest == before.digest:
                break
            verified = verify_unit(bench, subject, attempt)
            report = self._ask(verified, attempt)
        if again := updated_adapters(bench.run):
            subject = subject.updated(again)
            verified = verify_unit(bench, subject, UPDATED)
            report = self._ask(verified, UPDATED)
        stand(bench, subject)
        return publish(bench.run, report, self.told), verified

    def _routed(self, subject: Subject) -> Subject:
        """Without a router where there is nothing to route between."""
        parts = subject.parts
        return (
            subject if parts.router and parts.router.is_file() else Subject(replace(parts, router=None), subject.digest)
        )

    def _ask(self, unit: Unit, attempt: int | str) -> Report:
        self.do(unit)
        return read_report(report_path(self.plan.bench.run, attempt))

    def _back(self, subject: Subject, verified: Unit, one: Return, grow: bool) -> Subject:
        """One failing adapter, taught on or given more room. What cannot be is told, and then it stays as it was."""
        bench = self.plan.bench
        if not any(entry["attempt"] == one.attempt for entry in self.told):
            self.told.append({"attempt": one.attempt, "stage": 3 if grow else 4, "adapters": []})
        try:
            if grow:
                plan, unit, after = growth_units(bench, subject, verified, one)
                self.do(plan)
            else:
                unit, after = return_unit(bench, subject, verified, one)
            self.do(unit)
        except (DataError, DistillFailed, UsageError) as error:
            self.events.emit("warning", text=f"no way back with {one.capability}: {error.message}")
            self.told[-1]["failed"] = f"{one.capability}: {error.message} ({error.hint})"
            return subject
        self.told[-1]["adapters"].append(json.loads(told_path(bench, one).read_bytes()))
        return after

    def _finish(self, report: Report, verified: Unit) -> Ended:
        bench, bundle, passed = self.plan.bench, None, report.verdict == PASS
        if self.last < 6:
            return Ended(0 if passed else FAILED, report)
        root, units = self.plan.unit("verify/0").digest, [verified]
        with self._stage(6):
            if passed:
                units.append(bundle_unit(bench, verified, root))
                self.do(units[-1])
                bundle = bench.options.out
            self._tell_old_bundle(passed)
            self.do(report_unit(bench, units, root))
        return Ended(0 if passed else FAILED, report, bundle, bench.run / "report.html")

    def _tell_old_bundle(self, passed: bool) -> None:
        out = self.plan.bench.options.out
        if not passed and (out / "manifest.json").is_file():
            self.events.emit("warning", text=f"{out} is the bundle of an earlier student; this one did not pass")

    # --- one unit ---------------------------------------------------------------------------------------------------

    def do(self, unit: Unit) -> None:
        """Do a unit, unless it is done and what it left is there."""
        bench = self.plan.bench
        if bench.ledger.ended(unit.name, unit.digest):
            damage = bench.ledger.damage(unit)
            if not damage:
                record = bench.ledger.record(unit.name)
                self.events.emit("unit_ended", unit=unit.name, seconds=record.seconds if record else 0.0, reused=True)
                return
            more = f" (and {len(damage) - 1} more)" if len(damage) > 1 else ""
            self.events.emit("warning", text=f"{unit.name} is made again: {damage[0]}{more}")
        self.events.emit("unit_started", unit=unit.name, stage=unit.stage, estimate=round(unit.estimate.seconds, 1))
        started = self.events.clock()
        self._seed()
        outputs = unit.work(self._desk(unit))
        seconds = self.events.clock() - started
        bench.ledger.end(unit, outputs, seconds)
        self.did.append(unit.name)
        self.events.emit("unit_ended", unit=unit.name, seconds=round(seconds, 3), reused=False)

    def _desk(self, unit: Unit) -> Desk:
        def progress(**facts: Any) -> None:
            self.events.emit("unit_progress", unit=unit.name, **facts)

        def say(text: str) -> None:
            self.events.emit("unit_said", unit=unit.name, text=text)

        return Desk(self.plan.bench.ledger.begin(unit), say, progress)

    def _seed(self) -> None:
        """What a unit draws must not depend on which units this process did before."""
        import numpy as np
        import torch

        seed = self.plan.bench.options.seed
        random.seed(seed)
        np.random.seed(seed % 2**32)  # libraries draw from it
        torch.manual_seed(seed)

    @contextmanager
    def _stage(self, stage: int) -> Iterator[None]:
        started = self.events.clock()
        self.events.emit("stage_started", stage=stage, name=STAGES[stage])
        yield
        self.state.pass_stage(stage)
        self.events.emit("stage_ended", stage=stage, seconds=round(self.events.clock() - started, 3))
