"""Teacher and student side by side, on samples that the teacher was profiled on: the first few, as they come."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nexus_core.distill.run import STUDENT
from nexus_core.evaluation import ask
from nexus_core.plugins import Plugins
from nexus_core.profiling.draw import draw_samples
from nexus_core.profiling.model import CapabilityProfile, VerifyOutput
from nexus_core.report.artifacts import Part, absent
from nexus_core.report.facts import as_text
from nexus_core.types import CapabilityMetric, Sample

if TYPE_CHECKING:
    from nexus_core.student.files import Student

MOST = 10


@dataclass(frozen=True, slots=True)
class Witness:
    """Who can be asked, about what: the student if it is there, the packs if they are wanted, and what stays unshown."""

    student: Student | None
    plugins: Plugins | None
    hidden: frozenset[str]
    most: int


def answers_part(
    run: Path,
    profiles: Sequence[CapabilityProfile],
    plugins: Plugins | None,
    hidden: Collection[str] = (),
    most: int = MOST,
) -> Part:
    """At most `most` of each capability that is not `hidden`. `plugins` None: only the teachers' answers are there."""
    if not profiles:
        return absent("no teacher was profiled", "profile", "--teacher", "ID", "--capability", "NAME", "--run", run)
    if not most:
        return absent("no answers were asked for", "report", run)
    student = None if plugins is None else _student(run)
    isolated = () if student is None else (a.capability for a in student.arch.adapters if a.isolated)
    witness = Witness(student, plugins, frozenset((*hidden, *isolated)), most)
    found: Part = {"rows": [_capability(profile, witness) for profile in profiles], "student": None}
    if student is None:
        found["student"] = absent("the run has no student that was asked", "distill", "--run", run)
    return found


def _student(run: Path) -> Student | None:
    from nexus_core.student.files import read_student

    path = run / STUDENT
    return read_student(path) if path.is_dir() else None


def _capability(profile: CapabilityProfile, witness: Witness) -> Part:
    found = {"capability": profile.capability, "teacher": profile.teacher, "note": "", "pairs": []}
    if profile.capability in witness.hidden:
        return {**found, "note": "isolated: its answers are not shown"}
    told = profile.verify_outputs[: witness.most]
    if witness.plugins is None:
        return {**found, "pairs": [_pair(of, None, None, None) for of in told]}
    metric = witness.plugins.capability_metric(profile.capability)
    samples = {sample.digest: sample for sample in draw_samples(metric, profile.n, profile.seed)}
    known = [samples[of.digest] for of in told if of.digest in samples]
    answered: dict[str, tuple[Any, float]] = {}
    if len(known) < len(told):
        found["note"] = "some samples are of data that the pack does not have: nobody can be asked them again"
    if witness.student is not None:
        if profile.teacher in {a.teacher for a in witness.student.arch.adapters if a.capability == profile.capability}:
            answered = _asked(witness.student, profile.capability, metric, known)
        else:
            found["note"] = "the student has no adapter that was taught by this teacher"
    pairs = [_pair(of, samples.get(of.digest), *answered.get(of.digest, (None, None))) for of in told]
    return {**found, "pairs": pairs}


def _asked(
    student: Student, capability: str, metric: CapabilityMetric, samples: Sequence[Sample]
) -> dict[str, tuple[Any, float]]:
    """The student's output and its score, by digest."""
    from nexus_core.student.answer import StudentAnswerer

    answerer = StudentAnswerer(student.model, student.tokenizer, capability)
    outputs = ask(answerer, samples, metric.options, lambda done, total: None)
    scores = metric.score_all(samples, outputs)
    return {s.digest: (o, float(score)) for s, o, score in zip(samples, outputs, scores, strict=True)}


def _pair(of: VerifyOutput, sample: Sample | None, output: Any, score: float | None) -> Part:
    return {
        "sample": of.sample,
        "prompt": None if sample is None else sample.prompt,
        "target": None if sample is None else as_text(sample.target),
        "teacher": as_text(of.output),
        "teacher_score": of.score,
        "student": None if score is None else as_text(output),
        "student_score": score,
    }
