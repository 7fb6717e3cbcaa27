"""Stage 4: adapters and router are taught from what the run has of the teachers, of whom none is loaded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from nexus_core.distill.run import Distiller

if TYPE_CHECKING:
    from nexus_core.distill.retention import Measured
    from nexus_core.distill.routing import RouterSettings
    from nexus_core.distill.run import Order, Taught
    from nexus_core.distill.settings import TeachSettings
    from nexus_core.plugins import Plugins
    from nexus_core.registry import Registry
    from nexus_core.student.arch import RouterArch, StudentArch
    from nexus_core.student.files import Student
    from nexus_core.student.router import SparseIntentRouter

EVERY = 0.25  # seconds between two words about a step


@dataclass(frozen=True, slots=True, eq=False)
class Lesson:
    """What teaching works with. `progress` is told steps, their loss, and the worst retention at the last evaluation."""

    order: Order
    registry: Registry
    plugins: Plugins
    settings: TeachSettings
    say: Callable[[str], None]
    progress: Callable[..., None] = lambda **facts: None


def teach(lesson: Lesson, student: Student, names: Sequence[str]) -> tuple[list[Taught], dict[str, float]]:
    """Teach these adapters of the student, in place; how each came out, and the seconds that it took."""
    from nexus_core.distill.material import Gatherer
    from nexus_core.distill.run import gather

    started = time.perf_counter()
    gatherer = Gatherer(lesson.order.run, lesson.registry, lesson.plugins, lesson.settings.data)
    lesson.say("rows: answers in the student's own tokens")
    materials = gather(gatherer, student, names)
    gathered = time.perf_counter()
    distiller = _Told(lesson.order, student, lesson.settings, materials, lesson.say)
    distiller.progress = lesson.progress
    taught = distiller.distill()
    seconds = {"rows": gathered - started, "teaching": time.perf_counter() - gathered}
    return taught, {name: round(spent, 1) for name, spent in seconds.items()}


def route(arch: RouterArch, settings: RouterSettings, seed: int) -> tuple[SparseIntentRouter, dict[str, Any]] | None:
    """A router over the adapters, and what it does on held-out prompts; None without a class to choose."""
    from nexus_core.distill.routing import routing_prompts, train_router

    if not arch.classes:
        return None
    prompts = routing_prompts(arch.classes, settings, seed)
    router, report = train_router(arch, prompts, settings=settings, seed=seed)
    return router, asdict(report)


def grown_student(student: Student, arch: StudentArch, capability: str) -> Student:
    """The student with this adapter as the plan has it now, untaught; nothing else is touched."""
    if capability in student.model.adapters:
        student.model.remove_adapter(capability)
    for tower in arch.towers:
        if tower.thought_tokens and tower.name not in student.model.towers:
            student.model.add_tower(tower, arch.seed)
    student.model.add_adapter(arch.adapter(capability), seed=arch.seed)
    return replace(student, arch=arch)


class _Told(Distiller):
    """A distiller whose steps are told while they are made."""

    progress: Callable[..., None]

    def _train(self, name: str, settings: TeachSettings, **job: Any) -> Mapping[str, Any]:
        told = _Steps(self.progress, settings.steps, settings.accumulate, job["objective"])
        if (validation := job.get("validation")) is not None:
            job["validation"] = _Evaluations(validation, told)
        return super()._train(name, settings, **{**job, "objective": told})


class _Steps:
    """An objective that tells the step it is asked for. Several threads may ask."""

    def __init__(self, progress: Callable[..., None], total: int, batches: int, objective: Any) -> None:
        self.progress, self.total, self.batches, self.objective = progress, total, batches, objective
        self.retention: dict[str, Any] = {}
        self.next = 0.0

    def __call__(self, student: Any, batch: Any, moment: Any) -> Any:
        terms = self.objective(student, batch, moment)
        if student.training and (now := time.monotonic()) >= self.next:
            self.next = now + EVERY
            loss = float(terms.total.detach()) * self.batches  # a batch's own: terms are shares of the step's
            self.progress(done=moment.step, total=self.total, unit_word="steps", loss=loss, **self.retention)
        return terms


class _Evaluations:
    """A validation that tells what the worst capability keeps."""

    def __init__(self, validation: Any, steps: _Steps) -> None:
        self.validation, self.steps = validation, steps

    def measure(self, settings: Any, full: bool = False) -> Measured:
        """As the validation does."""
        found: Measured = self.validation.measure(settings, full)
        shares = {name: part["retention"] for name, part in found.parts.items()}
        worst = min(shares, key=lambda name: shares[name], default=None)
        self.steps.retention = {"retention": found.retention if worst is None else shares[worst]}
        if worst is not None:
            self.steps.retention["worst"] = worst
        return found

    def better(self, one: float, two: float) -> bool:
        """As the validation says."""
        return bool(self.validation.better(one, two))

    def gain(self, score: float) -> float:
        """As the validation says."""
        return float(self.validation.gain(score))
