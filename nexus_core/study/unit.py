"""One unit of a study: one arm with one seed, taught, written, read again and scored.

    <folder>/training.json   what it was made of, and how the training went once it is over
    <folder>/distill/...     journals of its trainings
    <folder>/student/        the student that came out
    <folder>/summary.json    the training and the scores: written last, so a unit that has one is finished

Killed at any moment, it goes on from the checkpoints of its training; those are deleted when the student is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic
from nexus_core.distill.journal import STEPS, finite
from nexus_core.distill.material import WORK, Material
from nexus_core.distill.recovery import DistillFailed
from nexus_core.distill.run import CHECKPOINTS, Distiller, Order, Say
from nexus_core.distill.settings import LossSettings, TeachSettings
from nexus_core.distill.targets import TrainingRow
from nexus_core.errors import DataError
from nexus_core.student.files import Student, read_student, write_student
from nexus_core.study.arms import Arm
from nexus_core.study.measure import score_student

TRAINING, SUMMARY, STUDENT = "training.json", "summary.json", "student"


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """`key` is the hash of all that decides the training; `known` are the materials with what teachers know, by which
    every arm is measured, whatever it was taught from."""

    arm: Arm
    seed: int
    folder: Path
    settings: TeachSettings
    known: Mapping[str, Material]
    key: str
    samples: int

    @property
    def name(self) -> str:
        return unit_name(self.arm.name, self.seed)

    def finished(self) -> dict[str, Any] | None:
        """Its summary, if it has one of this key and so many samples. DataError where the folder is another study's."""
        for name in (TRAINING, SUMMARY):
            found = read_json(self.folder / name)
            if found is not None and found["key"] != self.key:
                raise DataError(
                    f"{self.folder} holds a training with other settings, another student or other signals",
                    "give the options that it was begun with, or move the folder out of the way",
                )
        summary = read_json(self.folder / SUMMARY)
        return summary if summary is not None and summary["samples"] == self.samples else None

    def teach(self, student: Student, materials: Mapping[str, Material], order: Order, say: Say) -> None:
        """Until training.json says how it went and the student is written; at once where that is so."""
        checkpoints = self.folder / CHECKPOINTS.parts[0]
        if (found := read_json(self.folder / TRAINING)) is not None and found["over"]:
            shutil.rmtree(checkpoints, ignore_errors=True)  # killed when this was all that was left to do
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        facts: dict[str, Any] = {"arm": self.arm.name, "seed": self.seed, "key": self.key}
        write_json(self.folder / TRAINING, {**facts, "over": False})
        fitted = {name: fit(material, self.settings.loss) for name, material in materials.items()}
        order = replace(order, run=self.folder, fresh=False, seed=self.seed)
        distiller = Distiller(order, student, self.settings, fitted, say)
        failed = None
        try:
            distiller.teach()
        except DistillFailed as error:
            failed = error.message
        else:
            write_student(self.folder / STUDENT, student)
        facts |= {"over": True, "failed": failed, **self._cost(distiller.outcomes)}
        write_json(self.folder / TRAINING, facts)
        shutil.rmtree(checkpoints, ignore_errors=True)

    def score(self, device: str, say: Say) -> dict[str, Any]:
        """The student that was written, on the verify split of every capability; then the unit is finished."""
        summary = read_json(self.folder / TRAINING) or {}
        if summary["failed"] is None:
            student = read_student(self.folder / STUDENT)
            student.model.to(device)
            files = [path for path in (self.folder / STUDENT).rglob("*") if path.is_file()]
            summary["bytes"] = sum(path.stat().st_size for path in files)
            summary["capabilities"] = {
                name: score_student(student, material, self.settings.loss, self.samples)
                for name, material in self.known.items()
            }
            told = ", ".join(f"{name} {found['score']:.3f}" for name, found in summary["capabilities"].items())
            say(f"{self.name}: {told}")
        summary["samples"] = self.samples
        write_json(self.folder / SUMMARY, summary)
        return summary

    def _cost(self, outcomes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """`steps` were made, and `lost` of them undone by rollbacks and made up for."""
        sums: dict[str, Any] = {
            name: sum(outcome[name] for outcome in outcomes) for name in ("steps", "lost", "tokens", "seconds")
        }
        rows = [row for path in sorted(self.folder.glob(f"{WORK}/*/{STEPS}")) for row in read_rows(path)]
        memory = [row.get("gpu_memory_mb", row["memory_mb"]) for row in rows if "event" not in row]
        rollbacks = [row for row in rows if row.get("event") == "rollback"]
        sums["trainings"] = [outcome["capability"] for outcome in outcomes]
        return {**sums, "rollbacks": rollbacks, "memory_mb": max(memory, default=None)}


def unit_name(arm: str, seed: int) -> str:
    """The name of its folder."""
    return f"{arm}-seed{seed}"


def fit(material: Material, loss: LossSettings) -> Material:
    """Without what the arm's loss does not read, so that its steps cost no more than they must."""
    spaces = material.spaces if loss.alpha_hidden > 0 else ()
    heads = material.heads if loss.beta_attention > 0 else {}
    if spaces and heads:
        return material

    def fitted(row: TrainingRow) -> TrainingRow:
        return replace(row, anchors=row.anchors if spaces else {}, attention=row.attention if heads else {})

    held = [fitted(row) for row in material.held]
    return replace(material, spaces=spaces, heads=heads, rows=[fitted(row) for row in material.rows], held=held)


def training_key(facts: Mapping[str, Any], settings: TeachSettings, materials: str) -> str:
    """The hash of everything that decides a training."""
    content = {"facts": facts, "settings": settings.as_json(), "materials": materials}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def materials_digest(materials: Mapping[str, Material]) -> str:
    """Of all that is taught, in which order."""
    content = {name: [m.digest, rows_digest(m.rows), m.lengths] for name, m in materials.items()}
    return hashlib.sha256(json.dumps(list(content.items())).encode()).hexdigest()


def rows_digest(rows: Sequence[TrainingRow]) -> str:
    """Of all that is taught, not only of which samples."""
    digest = hashlib.sha256()
    for row in rows:
        held = [target.values for of in (row.anchors, row.attention) for _, target in sorted(of.items())]
        for array in (row.prompt_ids, row.answer_ids, row.kl.ids, row.kl.log_probs, row.kl.rest, *held):
            digest.update(array.tobytes())
    return digest.hexdigest()


def arch_facts(arch: Any, weights: str, seed: int) -> dict[str, Any]:
    """The student and its start."""
    return {"arch": asdict(arch), "weights": weights, "seed": seed}


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a journal."""
    with path.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no such file; files are replaced whole, so one that cannot be read is damaged."""
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise DataError(f"{path} is no JSON ({error})", "delete it; what it told is found again") from error
    return found


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """The whole file or none of it."""
    write_atomic(path, (json.dumps(finite(content), indent=1, allow_nan=False) + "\n").encode())
