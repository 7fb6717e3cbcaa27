"""Stage 4: from the cached signals of all teachers to a trained student. No teacher is in memory."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from nexus_core.distill.material import WORK, Gatherer, Material
from nexus_core.distill.settings import TeachSettings
from nexus_core.distill.vocabulary import Vocabulary, read_vocabulary
from nexus_core.errors import DataError, UsageError
from nexus_core.registry import Registry
from nexus_core.student.arch import ARCH, StudentArch
from nexus_core.student.files import Student, read_student

CHECKPOINTS = Path("checkpoints/nexus_student")
STUDENT = "student"
JOINT = "joint"
HELD_TOKENS = 4096  # of a batch of the hard check
SMALL = 30_000_000  # parameters up to which batches are shared among cores, rather than operations
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Order:
    """What is asked for. `adapter`: teach this one alone, on the student that is there; `further`: from the weights it has,
    not from new ones. `fresh`: forget what was begun."""

    run: Path
    adapter: str | None = None
    fresh: bool = True
    further: bool = False
    workers: int = 0
    device: str = "cpu"
    seed: int = 42


@dataclass(frozen=True, slots=True)
class Taught:
    """How one capability came out: its last evaluation on the profile split, and the trainings that led there."""

    capability: str
    measured: Mapping[str, Any]
    trainings: tuple[Mapping[str, Any], ...]

    @property
    def met(self) -> bool:
        """Whether the contract is met, without any margin, on all answers."""
        return bool(self.measured["reached"] >= 1.0)


class Distiller:
    """Teaches the adapters of one student. `materials` may be exchanged before, which is how a study makes its controls."""

    def __init__(
        self, order: Order, student: Student, settings: TeachSettings, materials: Mapping[str, Material], say: Say
    ) -> None:
        self.order, self.student, self.settings, self.say = order, student, settings, say
        self.materials = dict(materials)
        self.outcomes: list[Mapping[str, Any]] = []  # of all trainings so far
        self._trainings: dict[str, list[Mapping[str, Any]]] = {name: [] for name in materials}
        self._met: set[str] = set()

    def distill(self) -> list[Taught]:
        """All phases in order, then a measurement of everything."""
        self.teach()
        with training_threads(self.student.model):
            return [self._measure(name) for name in self.materials]

    def teach(self) -> None:
        """All phases in order. What was taught is in the student, and `outcomes` has how it went."""
        if self.order.adapter and not any(phase.steps for phase in self.settings.phases if not phase.together):
            raise UsageError("no phase of this preset teaches an adapter alone", "leave out --adapter")
        if self.order.fresh:
            self._forget()
        with training_threads(self.student.model):
            for together, phases in groupby(self.settings.phases, key=lambda phase: phase.together):
                settings = replace(self.settings, phases=tuple(phase for phase in phases if phase.steps))
                if not settings.phases:
                    continue
                if together and self.order.adapter is None:
                    self._teach_together(settings)
                elif not together:
                    for name in self.materials:
                        if name not in self._met:
                            self._teach_alone(name, self._further(name, settings))

    def _teach_together(self, settings: TeachSettings) -> None:
        from nexus_core.distill.joint import JointBatches, JointObjective, JointValidation, answer_turns
        from nexus_core.distill.objective import DistillObjective

        of = self.materials.items()
        turns = answer_turns({name: m.mean_lengths for name, m in of}, settings.data.turns_most)
        share = 1 / len(turns)  # turns change as needs do
        outcome = self._train(
            JOINT,
            settings,
            together=tuple(self.materials),
            batches=JointBatches({name: self._batches(m, settings, share) for name, m in of}, turns),
            objective=JointObjective(
                {name: DistillObjective(settings, m.spaces, m.heads) for name, m in of}, settings.accumulate
            ),
            held=[replace(batch, capability=name) for name, m in of for batch in self._held(m)],
            validation=JointValidation({name: self._validation(m) for name, m in of}) if self._watched else None,
        )
        parts = (outcome["measured"] or {}).get("parts", {})
        self._met = {name for name, measured in parts.items() if measured["met"]}
        for name in self.materials:
            self._trainings[name].append(outcome)

    def _teach_alone(self, name: str, settings: TeachSettings) -> None:
        """An adapter that was taught before and cannot be taught further stays as it was; the others have their turn."""
        from nexus_core.distill.recovery import DistillFailed

        adapter = self.student.model.adapters[name]
        before = {key: tensor.clone() for key, tensor in adapter.state_dict().items()}
        try:
            self._teach(name, settings)
        except DistillFailed as error:
            if not self._trainings[name]:
                raise
            adapter.load_state_dict(before)
            self._trainings[name].append({"capability": name, "reason": "failed", "error": error.message})
            self.say(f"{name}: {error.message}; it stays as it was")

    def _further(self, name: str, settings: TeachSettings) -> TeachSettings:
        """Who was taught before meets no short rows first, the anchors of the end, and a rate that loses nothing."""
        if not self._trainings[name] and not self.order.further:
            return settings
        loss = replace(settings.loss, alpha_hidden=settings.loss.alpha_floor, beta_attention=settings.loss.beta_floor)
        share = settings.optimizer.further_rate
        phases = tuple(replace(phase, adapter_rate=share * phase.adapter_rate) for phase in settings.phases)
        return replace(settings, data=replace(settings.data, curriculum=0.0), loss=loss, phases=phases)

    def _teach(self, name: str, settings: TeachSettings) -> None:
        from nexus_core.distill.objective import DistillObjective

        material = self.materials[name]
        outcome = self._train(
            name,
            settings,
            batches=self._batches(material, settings),
            objective=DistillObjective(settings, material.spaces, material.heads),
            held=self._held(material),
            spaces=material.spaces,
            validation=self._validation(material) if self._watched else None,
            allow_isolated=True,
        )
        self._trainings[name].append(outcome)

    def _train(self, name: str, settings: TeachSettings, **job: Any) -> Mapping[str, Any]:
        from nexus_core.distill.job import Job
        from nexus_core.distill.trainer import train

        outcome = asdict(
            train(
                Job(
                    student=self.student.model,
                    capability=name,
                    settings=settings,
                    checkpoints=self._checkpoints(name),
                    journal=self.order.run / WORK / name,
                    identity=self._identity(name),
                    device=self.order.device,
                    workers=workers(self.order.workers, self.student.model, settings.accumulate),
                    say=self.say,
                    **job,
                )
            )
        )
        self.outcomes.append(outcome)
        return outcome

    @property
    def _watched(self) -> bool:
        """Whether evaluations may end a training and choose among its weights."""
        return bool(self.settings.retention.every)

    def _measure(self, name: str) -> Taught:
        """On all answers; the last training's own measurement is of these very weights."""
        validation = self._validation(self.materials[name])
        measured = self._measured(name)
        if measured is None:
            self.student.model.eval()
            measured = asdict(validation.measure(self.settings.retention, full=True))
        reached = validation.reached(measured["score"])
        return Taught(name, {**measured, "reached": reached}, tuple(self._trainings[name]))

    def _measured(self, name: str) -> Mapping[str, Any] | None:
        """How its last training that came to an end left it: what was taught alone later moved nothing under it."""
        for training in reversed(self._trainings[name]):
            if measured := training.get("measured"):
                own: Mapping[str, Any] = measured["parts"].get(name, measured)
                return own if own["full"] else None
        return None

    def _batches(self, material: Material, settings: TeachSettings, share: float = 1.0) -> Any:
        """`share`: of all batches of the training."""
        from nexus_core.distill.batches import Batches, RowOrder

        data, batches = settings.data, settings.steps * settings.accumulate * share
        size = {"batch_tokens": data.batch_tokens} if data.batch_tokens else {"batch_size": data.batch_size}
        pad = int(self.student.tokenizer.pad_token_id or 0)
        return Batches(
            material.rows,
            seed=self.order.seed,
            pad_id=pad,
            order=RowOrder(material.lengths, round(data.curriculum * batches)),
            **size,
        )

    def _held(self, material: Material) -> list[Any]:
        """Long rows share a batch with few others: all at once would fill the memory with attention weights."""
        from nexus_core.distill.batches import collate

        pad = int(self.student.tokenizer.pad_token_id or 0)
        batches: list[list[Any]] = [[]]
        for row in sorted(material.held, key=len):
            if batches[-1] and (len(batches[-1]) + 1) * len(row) > HELD_TOKENS:
                batches.append([])
            batches[-1].append(row)
        return [collate(rows, pad) for rows in batches if rows]

    def _validation(self, material: Material) -> Any:
        from nexus_core.distill.retention import Validation
        from nexus_core.student.answer import StudentAnswerer

        answerer = StudentAnswerer(self.student.model, self.student.tokenizer, material.capability, allow_isolated=True)
        return Validation(material.metric, material.contract, material.teacher, answerer)

    def _identity(self, name: str) -> str:
        """What decides the outcome beside the settings: also the backbone's weights, on which everything is taught."""
        chosen = self.materials if name == JOINT else {name: self.materials[name]}
        material = {capability: m.digest for capability, m in chosen.items()}
        backbone = weights_digest(self.student.model.backbone_state())
        return json.dumps([asdict(self.student.arch), material, self.order.seed, backbone], sort_keys=True)

    def _checkpoints(self, name: str) -> Path:
        return self.order.run / CHECKPOINTS / (name if name == JOINT else f"adapters/{name}")

    def _forget(self) -> None:
        names = [JOINT, *self.materials] if self.order.adapter is None else [self.order.adapter]
        for name in names:
            shutil.rmtree(self._checkpoints(name), ignore_errors=True)
            for path in journal_files(self.order.run / WORK / name):
                path.unlink()


def new_student(arch: StudentArch, registry: Registry, tokenizer: Path | None, device: str) -> Student:
    """The planned student before any training."""
    from nexus_core.architect.backbone import locate_backbone
    from nexus_core.hf.tokenizer import load_tokenizer
    from nexus_core.student.model import NexusForCausalLM

    source = None if arch.backbone_source == "random" else locate_backbone(registry, arch.backbone_source)[0]
    place = tokenizer or source
    if place is None:
        raise UsageError(
            "a backbone with random weights has no tokenizer", "name the directory of one: --tokenizer PATH"
        )
    words = load_tokenizer(place)
    if len(words) > arch.backbone["vocab_size"]:
        raise DataError(
            f"the tokenizer in {place} has {len(words)} tokens, and the backbone {arch.backbone['vocab_size']}",
            "name one that the backbone has room for: --tokenizer PATH",
        )
    return Student(placed(NexusForCausalLM.from_backbone(source, arch), device), words, arch)


def renewed_student(order: Order, capability: str, arch: StudentArch) -> Student:
    """The run's student, with this adapter as it is before any training; nothing else is touched."""
    adapter = arch.adapter(capability)
    path = order.run / STUDENT
    student = read_student(path)
    if replace(student.arch, decisions=()) != replace(arch, decisions=()):
        raise DataError(
            f"the student in {path} was made by another plan than {order.run / ARCH}",
            "`nexus distill` without --adapter teaches the new plan",
        )
    student.model.remove_adapter(capability)
    student.model.add_adapter(adapter, seed=arch.seed)
    return replace(student, model=placed(student.model, order.device))


def placed(model: Any, device: str) -> Any:
    """On the device, with the attention of teaching."""
    from nexus_core.distill.looks import TAUGHT

    model.set_attn_implementation(TAUGHT)
    return model.to(device)


def check_device(device: str) -> None:
    """UsageError where nothing can be computed on it."""
    import torch

    try:
        torch.empty(1, device=device).fill_(1).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UsageError(
            f"the device {device} cannot be used: {reason}",
            "`nexus doctor` says what is here; --device cpu is everywhere",
        ) from error


def gather(gatherer: Gatherer, student: Student, capabilities: Sequence[str]) -> dict[str, Material]:
    """The material of these capabilities; rows that are still to be built are built on all cores."""
    from nexus_core.distill.rows import build_side_by_side

    words: Vocabulary = read_vocabulary(student.tokenizer)
    build_side_by_side([gatherer.stored(student.arch, name, words) for name in capabilities], os.cpu_count() or 1)
    return {name: gatherer.gather(student.arch, name, words) for name in capabilities}


def workers(asked: int, model: Any, batches: int) -> int:
    """Threads that share the batches of a step: as many as asked for; of a small model on a CPU, one for each core."""
    if asked:
        return min(asked, batches)
    size = sum(parameter.numel() for parameter in model.parameters())
    shared = size < SMALL and next(model.parameters()).device.type == "cpu"
    return min(os.cpu_count() or 1, batches) if shared else 1


def training_threads(model: Any) -> Any:
    """One thread inside each operation of a small model: its batches are what is shared."""
    from nexus_core.hf.threads import fitted_threads

    return fitted_threads(sum(parameter.numel() for parameter in model.parameters()))


def weights_digest(state: Mapping[str, Any]) -> str:
    """Of all bytes, by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode())
        digest.update(state[name].detach().cpu().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()


def journal_files(folder: Path) -> Iterator[Path]:
    """What a training writes to read; the rows beside it are another step's."""
    for pattern in ("steps.jsonl", "summary.json", "events.out.tfevents.*"):
        yield from folder.glob(pattern)
