"""Stage 5: the student alone, asked what its teachers were asked, in a process that cannot reach them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nexus_core.bundle.digest import student_digest
from nexus_core.errors import NexusError, UsageError
from nexus_core.gate.cell import Watched, watch
from nexus_core.gate.claims import Claim, Claims
from nexus_core.gate.conditions import conditions, controls, equal_share
from nexus_core.gate.isolation import out_of_reach, restore
from nexus_core.gate.job import Job, Said, Task, task
from nexus_core.gate.report import FORMAT, Report, overall, signed
from nexus_core.gate.subject import MANIFEST, subject_arch
from nexus_core.gate.verdict import FAIL, PASS, Result, measure, worst_first
from nexus_core.gate.walls import Walls
from nexus_core.plugins import Plugins
from nexus_core.registry import Registry
from nexus_core.student.arch import ARCH, AdapterArch, read_arch

SEED = 42
BACKBONE = " without its adapter"  # of a task's name
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class GateOrder:
    """What is to be verified: a student's directory or a bundle. `run` holds its teachers' scores (stage 2) and is where the
    journal of moved teachers lies. No `capabilities`: all. `samples` None: as many as the registry says."""

    subject: Path
    run: Path
    registry: Registry
    plugins: Plugins
    capabilities: tuple[str, ...] = ()
    samples: int | None = None
    device: str = "cpu"
    say: Say = field(default=lambda text: None)

    @property
    def n(self) -> int:
        return self.samples or self.registry.gate.samples

    @property
    def claims(self) -> Claims:
        return Claims(self.run, self.registry, self.plugins, self.n)


def verify_subject(order: GateOrder) -> Report:
    """Ask every capability of the subject, with its teachers out of reach, and judge. Nothing is written here."""
    restore(order.run)
    arch = subject_arch(order.subject)
    adapters = _chosen(order, arch.adapters)
    claims, results = _claims(order, adapters)
    walls = Walls.around(order.registry, order.plugins, order.run, [adapter.teacher for adapter in arch.adapters])
    before = student_digest(order.subject)
    watched = _ask(order, claims, walls)
    problems = list(walls.problems(watched))
    if student_digest(order.subject) != before:
        problems.append("the subject was changed while it was asked")
    facts: dict[str, Any] = {"controls": {}, "conditions": {}}
    for claim in claims:
        result, found = _judge(order, claim, watched)
        results.append(result)
        for section, entry in found.items():
            facts[section][claim.capability] = entry
    results += _planned_and_missing(order, {adapter.capability for adapter in arch.adapters})
    return _report(
        order, before, results, walls.evidence(watched, claims, problems), facts, _gaps(order, arch.adapters)
    )


def _chosen(order: GateOrder, adapters: Sequence[AdapterArch]) -> list[AdapterArch]:
    known = [adapter.capability for adapter in adapters]
    wanted = {order.registry.capability(name).id for name in order.capabilities}
    if strangers := sorted(wanted - set(known)):
        raise UsageError(f"the student has no adapter for {strangers[0]}", f"it has: {', '.join(known) or 'none'}")
    if not known:
        raise UsageError("the student has no adapter, so there is nothing to verify", "run `nexus distill` first")
    return [adapter for adapter in adapters if not wanted or adapter.capability in wanted]


def _claims(order: GateOrder, adapters: Sequence[AdapterArch]) -> tuple[list[Claim], list[Result]]:
    """What can be measured, and the results of what cannot: no score is a failure, whatever the reason."""
    claims, results = [], []
    for adapter in adapters:
        try:
            claims.append(order.claims.read(adapter))
        except NexusError as error:
            hint = f" ({error.hint})" if error.hint else ""
            results.append(Result(adapter.capability, adapter.teacher, None, None, f"{error.message}{hint}"))
    return claims, results


def _ask(order: GateOrder, claims: Sequence[Claim], walls: Walls) -> Watched:
    """The student's process, with the teachers away."""
    tasks: list[Task] = []
    for claim in claims:
        options, gate = claim.metric.options, order.registry.gate
        own = task(claim.capability, claim.capability, claim.samples, options)
        # Spread over the drawn order: the first ones may be of one kind.
        count = min(gate.alone, len(claim.samples))
        tasks.append(replace(own, alone=tuple(i * len(claim.samples) // count for i in range(count))))
        tasks.append(task(claim.capability + BACKBONE, None, claim.samples[: gate.control_samples], options))
    job = Job(
        subject=order.subject.resolve(),
        device=order.device,
        tasks=tuple(tasks),
        limits=walls.limits(order.subject),
        probes={str(path): name for name, path in walls.moved.items()},
        search=tuple(str(Path(place).resolve()) for place in sys.path if place),
        result=Path(),
    )
    order.say(f"out of reach: {', '.join(walls.moved) or 'no teacher is on this machine'}")
    with out_of_reach(order.run, walls.moved, order.subject):
        return watch(job, order.registry.gate.minutes, order.say)


def _judge(order: GateOrder, claim: Claim, watched: Watched) -> tuple[Result, dict[str, Any]]:
    """The result of one capability, with its controls and conditions."""
    said = watched.testimony.said.get(claim.capability) if watched.testimony else None
    backbone = watched.testimony.said.get(claim.capability + BACKBONE) if watched.testimony else None
    reason = watched.failure or _incomplete(claim, said)
    if reason or said is None:
        return Result(claim.capability, claim.teacher, claim.contract, None, reason), {}
    order.say(f"{claim.capability}: scoring {len(said.outputs)} answers")
    scores = _scores(claim, claim.samples, said.outputs)
    result = _result(order, claim, scores)
    if isinstance(scores, str):
        return result, {}
    one_by_one = [claim.samples[one.index] for one in said.alone]
    alone = _scores(claim, one_by_one, [one.output for one in said.alone])
    found = {} if isinstance(alone, str) else {"conditions": conditions(claim, scores, said, alone)}
    if backbone is not None:
        found["controls"] = controls(claim, scores, backbone, order.run)
    share = equal_share(said)
    if not share >= order.registry.gate.batch_equal:
        differ = f"{1 - share:.1%} of its answers are others when they are asked for one at a time"
        result = replace(result, reason=f"{differ}; the registry allows {1 - order.registry.gate.batch_equal:.1%}")
    return result, found


def _incomplete(claim: Claim, said: Said | None) -> str:
    if said is None:
        return "it gave no answers"
    if len(said.outputs) != len(claim.samples):
        return f"it gave {len(said.outputs)} answers to {len(claim.samples)} questions"
    strange = [one.index for one in said.alone if not 0 <= one.index < len(claim.samples)]
    return f"it answered a question {strange[0]} that was not asked" if strange else ""


def _scores(claim: Claim, samples: Sequence[Any], outputs: Sequence[Any]) -> list[float] | str:
    """One finite score for each answer, or why there is none. Scored here, by the pack, and not where they were given."""
    scores = [float(score) for score in claim.metric.score_all(samples, outputs)]
    if len(scores) != len(samples):
        return f"{len(samples) - len(scores)} of {len(samples)} scores are missing"
    if missing := sum(not math.isfinite(score) for score in scores):
        return f"{missing} of {len(samples)} scores are missing: they are no numbers"
    return scores


def _result(order: GateOrder, claim: Claim, scores: list[float] | str) -> Result:
    if isinstance(scores, str):
        return Result(claim.capability, claim.teacher, claim.contract, None, scores)
    figures = measure(claim.metric, claim.samples, claim.teacher_scores, scores, order.registry.gate.resamples)
    return Result(claim.capability, claim.teacher, claim.contract, figures)


def _planned_and_missing(order: GateOrder, there: set[str]) -> list[Result]:
    """Capabilities that the run's plan has and the subject has not: leaving out what fails is no way to pass."""
    if not (order.run / ARCH).is_file():
        return []
    planned = read_arch(order.run / ARCH).adapters
    reason = "it was planned, and the student has no adapter for it"
    return [Result(a.capability, a.teacher, None, None, reason) for a in planned if a.capability not in there]


def _gaps(order: GateOrder, adapters: Sequence[AdapterArch]) -> list[str]:
    """What was left out on request, so that what was asked cannot pass for everything."""
    gaps = []
    if order.n < order.registry.gate.samples:
        gaps.append(f"{order.n} samples instead of the registry's {order.registry.gate.samples}")
    wanted = {order.registry.capability(name).id for name in order.capabilities}
    if left := [a.capability for a in adapters if wanted and a.capability not in wanted]:
        gaps.append(f"not asked: {', '.join(left)}")
    return gaps


def _report(
    order: GateOrder,
    digest: str,
    results: Sequence[Result],
    isolation: Mapping[str, Any],
    facts: Mapping[str, Any],
    gaps: Sequence[str],
) -> Report:
    ordered = worst_first(results)
    rows = {result.capability: result.as_json() for result in ordered}
    reasons = [f"{name}: {row['reason']}" for name, row in rows.items() if row["verdict"] == FAIL]
    broken = [f"isolation: {reason}" for reason in isolation["reasons"]] if isolation["verdict"] != PASS else []
    return signed(
        {
            "format_version": FORMAT,
            "verdict": overall(rows, isolation["verdict"], gaps),
            "reasons": [*broken, *reasons, *gaps],
            "subject": "bundle" if (order.subject / MANIFEST).is_file() else "student",
            "subject_sha256": digest,
            "seed": SEED,
            "settings": {**asdict(order.registry.gate), "samples": order.n},
            "gaps": list(gaps),
            "capabilities": rows,
            "isolation": dict(isolation),
            **{section: {name: facts[section][name] for name in rows if name in facts[section]} for section in facts},
            "attempts": [],
            "variants": {},
        }
    )
