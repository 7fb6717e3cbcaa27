"""Every arm with every seed, one after the other; then the teachers; then what it all says.

<run>/study/<arm>-seed<k>/    see unit.py
<run>/study/study.json        the teachers' scores and all findings, written again after each unit
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nexus_core.distill.material import Material
from nexus_core.distill.run import Order, Say, weights_digest
from nexus_core.distill.settings import TeachSettings
from nexus_core.errors import UsageError
from nexus_core.evaluation import Answerer, draw
from nexus_core.student.arch import StudentArch
from nexus_core.student.files import Student
from nexus_core.study.arms import Arm, Arms
from nexus_core.study.compare import Draws
from nexus_core.study.measure import request, score
from nexus_core.study.table import Findings, document
from nexus_core.study.unit import Unit, arch_facts, materials_digest, read_json, training_key, unit_name, write_json

FOLDER, FILE = "study", "study.json"
FORMAT = 1


@dataclass(frozen=True, slots=True)
class StudyOrder:
    """What is asked for. `steps` None: as many as the preset has."""

    run: Path
    arms: tuple[Arm, ...]
    steps: int | None = None
    seeds: int = 3
    samples: int = 500
    workers: int = 0
    device: str = "cpu"

    @property
    def folder(self) -> Path:
        return self.run / FOLDER


@dataclass(frozen=True, slots=True)
class TeacherOf:
    """Whose score a capability's is compared with. `load` gives None where it is not on this machine."""

    id: str
    weights: str
    load: Callable[[], Answerer | None]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """What all arms have in common. `gold` makes the materials with reference answers, when an arm wants them."""

    arch: StudentArch
    preset: TeachSettings
    build: Callable[[StudentArch], Student]
    materials: Mapping[str, Material]
    gold: Callable[[], Mapping[str, Material]]
    teachers: Mapping[str, TeacherOf]


class Study:
    """`run()` does what is not done yet, and returns the content of study.json."""

    def __init__(self, order: StudyOrder, subject: Subject, arms: Arms, say: Say) -> None:
        self.order, self.subject, self.arms, self.say = order, subject, arms, say
        self._units: dict[str, dict[int, dict[str, Any]]] = {}
        self._teachers: dict[str, dict[str, Any]] = {}
        self._digests: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        """Seed by seed, so that a study that is stopped early has compared its arms."""
        self.order.folder.mkdir(parents=True, exist_ok=True)
        self._recall_teachers()
        units = [self.unit(arm, seed) for seed in range(1, self.order.seeds + 1) for arm in self.order.arms]
        for unit in units:
            unit.finished()  # what belongs to another study is said before the work, not after it
        for unit in units:
            with _alone(self.order.folder, unit.name):
                self._units.setdefault(unit.arm.name, {})[unit.seed] = unit.finished() or self._do(unit)
            self._write()
        for name, teacher in self.subject.teachers.items():  # last: no training has ever had one in memory
            self._measure_teacher(name, teacher)
        return self._write()

    def unit(self, arm: Arm, seed: int) -> Unit:
        """One arm with one seed."""
        settings = arm.teaching(self.subject.preset, self.order.steps)
        facts = arch_facts(self.subject.arch, self._weights, seed)
        return Unit(
            arm=arm,
            seed=seed,
            folder=self.order.folder / unit_name(arm.name, seed),
            settings=settings,
            known=self.subject.materials,
            key=training_key(facts, settings, self._digest(arm)),
            samples=self.order.samples,
        )

    def _do(self, unit: Unit) -> dict[str, Any]:
        self.say(f"{unit.name}: {unit.arm.title}, {unit.settings.steps} steps")
        student = self.subject.build(replace(self.subject.arch, seed=unit.seed))
        order = Order(self.order.run, workers=self.order.workers, device=self.order.device)
        unit.teach(student, self._materials(unit.arm), order, self.say)
        return unit.score(self.order.device, self.say)

    @cached_property
    def _gold(self) -> Mapping[str, Material]:
        return self.subject.gold()

    @cached_property
    def _weights(self) -> str:
        """The backbone that every arm starts from."""
        return weights_digest(self.subject.build(self.subject.arch).model.backbone_state())

    def _materials(self, arm: Arm) -> Mapping[str, Material]:
        return self._gold if arm.answers == "gold" else self.subject.materials

    def _digest(self, arm: Arm) -> str:
        """All rows are read for it, so each kind of them once."""
        if arm.answers not in self._digests:
            self._digests[arm.answers] = materials_digest(self._materials(arm))
        return self._digests[arm.answers]

    # --- teachers -----------------------------------------------------------------------------------------------

    def _recall_teachers(self) -> None:
        stored = (read_json(self.order.folder / FILE) or {}).get("teachers", {})
        for name, teacher in self.subject.teachers.items():
            found = stored.get(name)
            if found and self._identity(teacher).items() <= found.items():
                self._teachers[name] = found

    def _measure_teacher(self, name: str, teacher: TeacherOf) -> None:
        if name in self._teachers:
            return
        answerer = teacher.load()
        if answerer is None:
            return
        found = score(answerer, self.subject.materials[name].metric, self.order.samples)
        self._teachers[name] = {**self._identity(teacher), **found}
        self.say(f"{teacher.id}: {name} {found['score']:.3f}")
        self._write()

    def _identity(self, teacher: TeacherOf) -> dict[str, Any]:
        return {"teacher": teacher.id, "weights": teacher.weights, "samples": self.order.samples}

    # --- what it says -------------------------------------------------------------------------------------------

    @cached_property
    def _draws(self) -> dict[str, Draws]:
        asked = request(self.order.samples)
        metrics = {name: material.metric for name, material in self.subject.materials.items()}
        return {name: Draws(metric, draw(metric, asked)) for name, metric in metrics.items()}

    def _write(self) -> dict[str, Any]:
        from filelock import FileLock

        findings = Findings(self.arms, self._units, self._teachers, self._draws, self.order.seeds)
        content = {
            "format": FORMAT,
            "preset": self.subject.arch.preset,
            "steps": self.order.steps or self.subject.preset.steps,
            "seeds": self.order.seeds,
            "samples": self.order.samples,
            "capabilities": list(self.subject.materials),
            "teachers": self._teachers,
            **document(findings),
        }
        with FileLock(self.order.folder / ".lock"):
            write_json(self.order.folder / FILE, content)
        return content


@contextmanager
def _alone(folder: Path, name: str) -> Iterator[None]:
    """Two processes may do different units of a study, never the same one. The system lets go of a killed one's lock."""
    from filelock import FileLock, Timeout

    lock = FileLock(folder / f".{name}.lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise UsageError(f"another process is at {name}", "wait for it, or name other arms: --arm") from error
    try:
        yield
    finally:
        lock.release()
