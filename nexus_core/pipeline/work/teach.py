"""Stages 3 and 4: the plan, then adapters and router. What is taught first is taught together; later comers alone.

Whoever comes later is taught on the backbone as it stands and gets an adapter beside the others, whose bytes stay: a run
with more plugins goes on from what there is.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.atomic import write_atomic
from nexus_core.distill.journal import finite
from nexus_core.errors import DataError
from nexus_core.pipeline.capability import UPDATED
from nexus_core.pipeline.units import Desk, Estimate, Unit, digest_of
from nexus_core.pipeline.work.profile import unable
from nexus_core.registry import resolve_path
from nexus_core.types import Kind

if TYPE_CHECKING:
    from nexus_core.distill.run import Order, Taught
    from nexus_core.pipeline.bench import Bench
    from nexus_core.pipeline.selection import Pair
    from nexus_core.pipeline.stages.distill import Lesson

PLANS = "architect"
MADE = Path("distill/made")
BASE = "base"
ROUTER = "router.safetensors"
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Before:
    """What a unit of these stages goes on from: the plan and the student made last. None: nothing."""

    plan: Unit | None = None
    student: Unit | None = None
    name: str = ""


def plan_path(run: Path, name: str) -> Path:
    """The plan that a unit made."""
    return run / PLANS / f"{name}.json"


def made_path(run: Path, name: str) -> Path:
    """The student that a unit made."""
    return run / MADE / name


def architect_unit(bench: Bench, pairs: Sequence[Pair], profiles: Sequence[Unit], before: Before) -> Unit:
    """The plan of the first round, or with one adapter more."""
    from nexus_core.architect.presets import load_presets

    name = pairs[0].capability if before.plan else BASE
    capabilities = sorted({pair.capability for pair in pairs})
    rows = [bench.registry.capability(capability) for capability in capabilities]
    digest = digest_of(
        code=bench.code(),
        profiles=[unit.digest for unit in profiles],
        before=before.plan.digest if before.plan else None,
        preset=bench.preset(),
        latent=load_presets().tower_latent_factor,
        backbone=bench.backbone_identity(),
        capabilities=[[row.id, row.tower, row.isolated, bench.registry.tower(row.tower).latent_max] for row in rows],
        contracts=[[bench.contract(pair).rank_cap, bench.contract(pair).thresholds] for pair in pairs],
        overlap=bench.registry.profiling.overlap_heavy,
        teachers=_teachers(bench, capabilities),
        seed=bench.options.seed,
    )
    work = partial(_plan, bench, pairs, name, before)
    return Unit(f"{PLANS}/{name}", 3, digest, work, Estimate(bench.measured.fixed / 2, bench.measured.memory_mb, 0.1))


def _teachers(bench: Bench, capabilities: Sequence[str]) -> list[Any]:
    """What the plan says of every teacher of these capabilities depends on this."""
    found = []
    for capability in capabilities:
        for row in bench.registry.teachers_of(capability):
            present = resolve_path(row).present
            found.append([capability, row.id, row.role, row.refinement, str(row.fate), present])
    return found


def _plan(bench: Bench, pairs: Sequence[Pair], name: str, before: Before, desk: Desk) -> Sequence[Path]:
    from nexus_core.pipeline.stages.architect import architect_of, request
    from nexus_core.student.arch import read_arch, write_arch

    able = [pair for pair in pairs if not unable(bench.run, pair)]
    architect, wanted = architect_of(bench.run, bench.registry, able), request(bench.options, able)
    if before.plan is None:
        if not able:
            raise DataError("; ".join(unable(bench.run, pair) for pair in pairs), "select another teacher")
        arch = architect.design(wanted)
    else:
        arch = read_arch(plan_path(bench.run, before.name))
        arch = architect.extend(arch, wanted) if able else arch
    path = plan_path(bench.run, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_arch(path, arch)
    desk.say(f"planned: {', '.join(adapter.capability for adapter in arch.adapters)}")
    return [path]


def distill_unit(bench: Bench, pairs: Sequence[Pair], plan: Unit, before: Before) -> Unit:
    """The first round's adapters together with the backbone, or one adapter alone on the student that there is."""
    name = pairs[0].capability if before.student else BASE
    settings = bench.options.teaching(bench.rung)
    contracts = [bench.contract(pair) for pair in pairs]
    digest = digest_of(
        code=bench.code(*((Kind.CAPABILITY, pair.capability) for pair in pairs), (Kind.TOWER, "text")),
        plan=plan.digest,
        before=before.student.digest if before.student else None,
        settings=settings.as_json(),
        goals=[[contract.retain_fraction, contract.minimum] for contract in contracts],
        backbone=bench.backbone_identity(),
        seed=bench.options.seed,
        device=bench.options.device,
    )
    facts = {"pairs": [pair.name for pair in pairs]}
    work = partial(_teach, bench, pairs, name, before)
    return Unit(
        f"distill/{name}", 4, digest, work, _estimate(bench, pairs, alone=before.student is not None), facts=facts
    )


def _teach(bench: Bench, pairs: Sequence[Pair], name: str, before: Before, desk: Desk) -> Sequence[Path]:
    from nexus_core.distill.run import Order, new_student, placed
    from nexus_core.pipeline.stages.distill import grown_student, teach
    from nexus_core.student.arch import read_arch
    from nexus_core.student.files import read_student, write_student

    options = bench.options
    arch = read_arch(plan_path(bench.run, name))
    path = made_path(bench.run, name)
    if before.student is None:
        shutil.rmtree(bench.run / UPDATED, ignore_errors=True)  # on another backbone they say something else
        student = new_student(arch, bench.registry, options.tokenizer, options.device)
        names, adapter = [adapter.capability for adapter in arch.adapters], None
    else:
        student, adapter = read_student(made_path(bench.run, before.name)), name
        names = [name for planned in arch.adapters if planned.capability == name]
        if names:
            student = grown_student(student, arch, name)
            placed(student.model, options.device)
    order = Order(bench.run, adapter=adapter, fresh=desk.fresh, device=options.device, seed=options.seed)
    taught, seconds = teach(lesson(bench, order, desk), student, names) if names else ([], {})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_student(path, student)
    return [path, write_taught(path.with_suffix(".json"), taught, seconds)]


def lesson(bench: Bench, order: Order, desk: Desk) -> Lesson:
    """What teaching of this run works with."""
    from nexus_core.pipeline.stages.distill import Lesson

    settings = bench.options.teaching(bench.rung)
    return Lesson(order, bench.registry, bench.plugins, settings, desk.say, desk.progress)


def write_taught(path: Path, taught: Sequence[Taught], seconds: dict[str, float]) -> Path:
    """How each adapter came out, for the summary of the stage."""
    content = {
        "taught": {t.capability: {**t.measured, "met": t.met, "trainings": list(t.trainings)} for t in taught},
        "seconds": seconds,
    }
    write_atomic(path, (json.dumps(finite(content), indent=1, allow_nan=False) + "\n").encode())
    return path


def router_unit(bench: Bench, plan: Unit, name: str) -> Unit:
    """The router over all adapters of the last plan."""
    settings = bench.options.routing()
    packs = [(Kind.CAPABILITY, capability) for capability in bench.selection.capabilities]
    digest = digest_of(code=bench.code(*packs), plan=plan.digest, settings=asdict(settings), seed=bench.options.seed)
    estimate = Estimate(bench.measured.fixed, bench.measured.memory_mb, 1.0)
    return Unit("distill/router", 4, digest, partial(_route, bench, name), estimate)


def _route(bench: Bench, name: str, desk: Desk) -> Sequence[Path]:
    from nexus_core.pipeline.stages.distill import route
    from nexus_core.student.arch import read_arch
    from nexus_core.student.router import save_router

    folder = bench.run / MADE
    folder.mkdir(parents=True, exist_ok=True)
    found = route(read_arch(plan_path(bench.run, name)).router, bench.options.routing(), bench.options.seed)
    report = None if found is None else found[1]
    path, facts = folder / ROUTER, folder / "router.json"
    if found is None:
        path.unlink(missing_ok=True)
    else:
        save_router(found[0], path)
    write_atomic(facts, (json.dumps(finite(report), indent=1, allow_nan=False) + "\n").encode())
    return [facts] if found is None else [path, facts]


def _estimate(bench: Bench, pairs: Sequence[Pair], alone: bool) -> Estimate:
    """Every step of the first phases; of those that teach an adapter alone half: who has met its contract skips them."""
    settings, costs = bench.options.teaching(bench.rung), bench.measured
    together = 0 if alone else sum(phase.steps for phase in settings.phases if phase.together)
    single = sum(phase.steps for phase in settings.phases if not phase.together) * (1 if alone else 0.5 * len(pairs))
    size = student_size(bench)
    characters = sum(bench.amounts(pair).signals * bench.characters(pair) for pair in pairs)
    seconds = (together + single) * costs.step * size / costs.step_parameters + characters * costs.rows
    memory = costs.memory_mb + 24 * size / MIB + characters * costs.bytes_per_character / MIB
    return Estimate(costs.fixed + seconds, memory, characters * costs.bytes_per_character / MIB + 60 * size / MIB)


def student_size(bench: Bench) -> float:
    """Parameters that the preset allows in all, or as many as the backbone of the estimate has."""
    return float(bench.preset().budget.total or bench.measured.step_parameters)
