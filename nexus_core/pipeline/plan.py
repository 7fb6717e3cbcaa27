"""The plan of a run: every unit with what identifies it, whether it is done, and what it is expected to take.

Reading is all that a plan does; `nexus run --dry-run` is a plan that is printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import write_atomic
from nexus_core.errors import StateError
from nexus_core.pipeline.bench import Bench
from nexus_core.pipeline.hashes import Hashes
from nexus_core.pipeline.ladder import read_ladder
from nexus_core.pipeline.selection import Pair, Selection, Selector, Standing, Status
from nexus_core.pipeline.stages.student import Parts
from nexus_core.pipeline.units import UNITS, Estimate, Ledger, Unit, digest_of, plain
from nexus_core.pipeline.work.finish import bundle_unit, report_unit
from nexus_core.pipeline.work.gate import Subject, verify_unit
from nexus_core.pipeline.work.profile import profile_unit, unable
from nexus_core.pipeline.work.teach import (
    BASE,
    MADE,
    ROUTER,
    Before,
    architect_unit,
    distill_unit,
    made_path,
    plan_path,
    router_unit,
)

if TYPE_CHECKING:
    from pathlib import Path

    from nexus_core.pipeline.options import RunOptions
    from nexus_core.plugins import Plugins
    from nexus_core.registry import Registry

ROUNDS = f"{UNITS}/rounds.json"
STAGES = ("scope", "registry", "profile", "architect", "distill", "verify", "package")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the plan."""

    unit: Unit
    done: bool
    damage: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """Units in their order. `subject` is what stands before the gate first; what fails there adds units."""

    bench: Bench
    units: tuple[Unit, ...]
    subject: Subject
    rows: tuple[Row, ...]

    @property
    def todo(self) -> Estimate:
        """Of all that is to be done: seconds and disk together, memory of the largest."""
        left = [row.unit.estimate for row in self.rows if not row.done]
        return Estimate(
            sum(one.seconds for one in left),
            max((one.memory_mb for one in left), default=0.0),
            sum(o.disk_mb for o in left),
        )

    def of(self, *stages: int) -> list[Unit]:
        """The units of these stages."""
        return [unit for unit in self.units if unit.stage in stages]

    def unit(self, name: str) -> Unit:
        """By its name."""
        return next(unit for unit in self.units if unit.name == name)


def make_plan(options: RunOptions, registry: Registry, plugins: Plugins, ledger: Ledger) -> Plan:
    """Everything that `nexus run` would do now."""
    ladder = read_ladder()
    _, rung = ladder.rung(options.sample_size)
    before = kept_rounds(options.run, registry)
    bench = Bench(
        options=options,
        rung=rung,
        measured=ladder.measured,
        registry=registry,
        plugins=plugins,
        ledger=ledger,
        hashes=Hashes(options.run / UNITS / "files.json"),
        selection=Selection((), ()),
        rounds=(),
    )
    bench = _with_rounds(bench, before)
    units, subject = _units(bench)
    return Plan(bench, units, subject, _rows(bench, units))


def _with_rounds(bench: Bench, before: Sequence[Sequence[Pair]]) -> Bench:
    """What was taught stays the first round, with all later ones, as long as nothing that went into it has changed."""
    if before and before[0] and bench.ledger.finished("distill/base"):
        kept = tuple(pair for taught in before for pair in taught)
        bench = _selected(bench, kept)
        trial = replace(bench, rounds=tuple(map(tuple, before)))
        if _was_taught(trial):
            late = [pair for pair in bench.selection.pairs if pair not in kept]
            return replace(trial, rounds=(*trial.rounds, *_alone(late)))
    bench = _selected(bench, ())
    isolated = [pair for pair in bench.selection.pairs if bench.registry.capability(pair.capability).isolated]
    first = tuple(pair for pair in bench.selection.pairs if pair not in isolated)
    return replace(bench, rounds=(first, *_alone(isolated)))


def _selected(bench: Bench, kept: tuple[Pair, ...]) -> Bench:
    towers = list(bench.preset().towers)
    return replace(bench, selection=Selector(bench.registry, bench.plugins, bench.options, towers, kept).select())


def _alone(pairs: Sequence[Pair]) -> list[tuple[Pair, ...]]:
    """A round for each capability."""
    names = sorted({pair.capability for pair in pairs})
    return [tuple(pair for pair in pairs if pair.capability == name) for name in names]


def _was_taught(bench: Bench) -> bool:
    """Whether the first round was finished, of these very inputs."""
    profiles = {pair: profile_unit(bench, pair) for pair in bench.rounds[0]}
    plan = architect_unit(bench, bench.rounds[0], list(profiles.values()), Before())
    unit = distill_unit(bench, bench.rounds[0], plan, Before())
    return bench.ledger.ended(unit.name, unit.digest)


def _units(bench: Bench) -> tuple[tuple[Unit, ...], Subject]:
    """All that can be named before the gate has spoken, and what stands before it."""
    profiles = {pair: profile_unit(bench, pair) for pair in bench.pairs}
    units = list(profiles.values())
    before = Before()
    for pairs in bench.rounds:
        plan = architect_unit(bench, pairs, [profiles[pair] for pair in pairs], before)
        student = distill_unit(bench, pairs, plan, before)
        units += [plan, student]
        before = Before(plan, student, pairs[0].capability if before.plan else BASE)
    assert before.plan is not None and before.student is not None
    router = router_unit(bench, before.plan, before.name)
    parts = Parts(made_path(bench.run, before.name), plan_path(bench.run, before.name), bench.run / MADE / ROUTER)
    subject = Subject(parts, digest_of(student=before.student.digest, router=router.digest))
    verified = verify_unit(bench, subject, 0)
    bundle = bundle_unit(bench, verified, verified.digest)
    report = report_unit(bench, [verified, bundle], verified.digest)
    ordered = [*(unit for unit in units if unit.stage == 2), *(unit for unit in units if unit.stage > 2)]
    return (*ordered, router, verified, bundle, report), subject


def _rows(bench: Bench, units: Sequence[Unit]) -> tuple[Row, ...]:
    """A unit is to be done again, too, where one that it goes on from is."""
    rows: list[Row] = []
    root = next(unit.digest for unit in units if unit.name == "verify/0")
    for unit in units:
        if unit.name in ("bundle", "report"):
            record = bench.ledger.record(unit.name)
            done = record is not None and record.facts.get("root") == root and record.outputs is not None
            damage = bench.ledger.damage(unit) if done else []
        else:
            done = bench.ledger.ended(unit.name, unit.digest)
            damage = bench.ledger.damage(unit) if done else []
        rows.append(Row(unit, done and not damage, tuple(damage)))
    return tuple(rows)


def kept_capabilities(run: Path, registry: Registry, ledger: Ledger) -> list[str]:
    """What the run's student has been taught: it stays, whatever is selected now."""
    if not ledger.finished("distill/base"):
        return []
    return sorted({pair.capability for taught in kept_rounds(run, registry) for pair in taught})


def kept_rounds(run: Path, registry: Registry) -> list[list[Pair]]:
    """The rounds that were begun, without teachers that have been set aside since."""
    path = run / ROUNDS
    try:
        raw = json.loads(path.read_bytes())
        rounds = [[Pair(str(one["teacher"]), str(one["capability"])) for one in taught] for taught in raw]
    except FileNotFoundError:
        return []
    except (ValueError, LookupError, TypeError) as error:
        raise StateError(
            f"{path} cannot be read ({error})", "delete it: then everything is taught together again"
        ) from error
    return [
        [pair for pair in taught if pair.teacher in registry.teachers and registry.teachers[pair.teacher].fate is None]
        for taught in rounds
    ]


def write_rounds(bench: Bench) -> None:
    """What is taught together, and after it, for the plans of later starts."""
    raw = [[{"teacher": pair.teacher, "capability": pair.capability} for pair in taught] for taught in bench.rounds]
    path = bench.run / ROUNDS
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(raw, indent=1) + "\n").encode())


def documents(plan: Plan) -> Mapping[str, Any]:
    """What stages 0 and 1 write: the frozen configuration, the fate of every teacher, the contracts."""
    bench = plan.bench
    scope = {
        "options": plain(bench.options),
        "rung": plain(bench.rung),
        "registry": {"path": str(bench.registry.path), "sha256": bench.hashes.of(bench.registry.path)},
        "plugins": {ref.key: f"{ref.distribution} {ref.version}" for ref in bench.plugins.refs},
        "rounds": [[pair.name for pair in taught] for taught in bench.rounds],
    }
    registry = {"teachers": plain([_fate(plan, row) for row in bench.selection.rows])}
    contracts = {pair.name: plain(bench.contract(pair)) for pair in bench.pairs}
    return {"scope.json": scope, "registry_report.json": registry, "retention_contracts.json": contracts}


def _fate(plan: Plan, row: Standing) -> Standing:
    """As the row stands after profiling and planning, as far as these have come."""
    from nexus_core.student.arch import read_arch

    bench, path = plan.bench, plan.subject.parts.plan
    if row.status is not Status.SELECTED:
        return row
    pairs = [Pair(row.teacher, capability) for capability in row.capabilities]
    reasons = {pair: unable(bench.run, pair) for pair in pairs}
    planned = plan.unit(f"architect/{path.stem}")
    if bench.ledger.done(planned):
        decisions = {d.subject: d for d in read_arch(path).decisions if d.action in ("merge", "drop")}
        for pair in pairs:
            if pair.name in decisions and not reasons[pair]:
                reasons[pair] = f"{decisions[pair.name].action}: {decisions[pair.name].reason}"
    left = tuple(pair.capability for pair in pairs if not reasons[pair])
    merged = any(reason.startswith("merge: ") for reason in reasons.values())
    status = Status.SELECTED if left else Status.MERGED if merged else Status.DROPPED
    said = [row.reason, *(f"{pair.capability}: {reason}" for pair, reason in reasons.items() if reason)]
    return replace(row, status=status, capabilities=left, reason="; ".join(filter(None, said)))
