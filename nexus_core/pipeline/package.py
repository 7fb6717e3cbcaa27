"""Stage 6: a verified student becomes a bundle. What did not pass the gate, or was changed since, does not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

from nexus_core.atomic import writing
from nexus_core.bundle.check import VERIFIED, results_of
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.manifest import NAME, SHARD_LIMIT, Manifest, OptionFacts, ResultFacts, TeacherFacts
from nexus_core.bundle.readme import NOT_USED
from nexus_core.bundle.writer import BundleParts, CapabilityParts, check_place, write_bundle, write_files
from nexus_core.distill.run import STUDENT
from nexus_core.draft import drafted
from nexus_core.errors import ContractFailed
from nexus_core.gate import (
    REPORT,
    GateOrder,
    Report,
    check_report,
    read_report,
    restore,
    summary,
    verify_subject,
    write_report,
)
from nexus_core.plugins import Plugins
from nexus_core.registry import Registry
from nexus_core.student.arch import StudentArch
from nexus_core.student.files import Student, read_student
from nexus_core.types import SampleRequest, Split

PROMPTS = 3  # of each capability are asked again when the bundle is read back
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, eq=False)
class PackageOrder:
    """What to make of a run. `quantisation` fp32 are the very weights that were verified; others are verified again.
    `place` is where student and report lie, where that is not the run itself."""

    run: Path
    out: Path
    registry: Registry
    plugins: Plugins
    quantisation: str = VERIFIED
    name: str = NAME
    shard_limit: int = SHARD_LIMIT
    device: str = "cpu"
    say: Say = field(default=lambda text: None)
    place: Path | None = None

    @property
    def student(self) -> Path:
        return (self.place or self.run) / STUDENT

    @property
    def report(self) -> Path:
        return (self.place or self.run) / REPORT


def package(order: PackageOrder) -> Manifest:
    """The bundle of a run's student, or `ContractFailed` and no bundle."""
    restore(order.run)
    check_place(order.out)
    parts = bundle_parts(order)
    order.say("writing, and reading back in a fresh process")
    return write_bundle(order.out, parts)


def bundle_parts(order: PackageOrder) -> BundleParts:
    """All that goes into the bundle, verified as it will be stored."""
    report = passed_report(order)
    student = read_student(order.student)
    own = _without_others(report)
    parts = _parts(order, student, own, results_of(own.body, VERIFIED, REPORT))
    if order.quantisation != VERIFIED:
        own = _verify_variant(order, parts, report)
        parts = replace(parts, **_said(parts, own, order.quantisation))
    return parts


def passed_report(order: PackageOrder) -> Report:
    """The run's report, if it holds, is about this very student, and says that everything passed."""
    path, again = order.report, f"run `nexus verify --run {order.run}` again"
    if not path.is_file():
        raise ContractFailed(f"{order.run} was not verified: it has no {REPORT}", f"nexus verify --run {order.run}")
    report = read_report(path)
    if problems := check_report(report, order.registry, student_digest(order.student)):
        raise ContractFailed(f"{path} is not to be trusted: {problems[0]}", again)
    if not report.passed:
        raise ContractFailed(f"there is no bundle: the verdict is {report.verdict}: {_reasons(report)}", again)
    return report


def _verify_variant(order: PackageOrder, parts: BundleParts, report: Report) -> Report:
    """Ask the student as it comes out of the quantised files. The run's report remembers what came of it either way."""
    with drafted(order.run / "variant") as subject:
        with writing(subject):
            write_files(subject, parts)
        order.say(f"verifying {order.quantisation}")
        gate = GateOrder(subject, order.run, order.registry, order.plugins, device=order.device, say=order.say)
        found = verify_subject(gate)
    write_report(order.report, report.with_variant(order.quantisation, summary(found)))
    if not found.passed:
        raise ContractFailed(
            f"there is no {order.quantisation} bundle: {_reasons(found)}", "leave out --quantise, or quantise less"
        )
    return _without_others(report).with_variant(order.quantisation, summary(found))


def _said(parts: BundleParts, report: Report, kind: str) -> dict[str, Any]:
    """What a bundle of this kind says: the scores of its own weights."""
    results = results_of(report.body, kind, REPORT)
    capabilities = {name: replace(own, result=results[name]) for name, own in parts.capabilities.items()}
    return {"capabilities": capabilities, "report": report.stable().body}


def _without_others(report: Report) -> Report:
    """Of the variants that were made of the same student before: this bundle's bytes do not depend on them."""
    from nexus_core.gate.report import signed

    body = {key: value for key, value in report.body.items() if key != "report_sha256"}
    return signed({**body, "variants": {}})


def _reasons(report: Report) -> str:
    return "; ".join(report.body["reasons"]) or "it gives no reason"


def _parts(order: PackageOrder, student: Student, report: Report, results: Mapping[str, ResultFacts]) -> BundleParts:
    capabilities = {}
    for adapter in student.arch.adapters:
        name, metric = adapter.capability, order.plugins.capability_metric(adapter.capability)
        drawn = metric.samples(SampleRequest(Split.VERIFY, PROMPTS))
        capabilities[name] = CapabilityParts(
            contract=order.registry.contract(name, adapter.teacher),
            result=results[name],
            options=OptionFacts(metric.options.max_new_tokens, metric.options.stop),
            aliases=order.registry.capability(name).aliases,
            prompts=tuple(sample.prompt for sample in islice(drawn, PROMPTS)),
        )
    return BundleParts(
        student=student,
        capabilities=capabilities,
        report=report.stable().body,
        teachers=tuple(teachers_of(student.arch, order.registry, report)),
        created_with=_versions(student.arch, order.plugins),
        name=order.name,
        quantisation=order.quantisation,
        shard_limit=order.shard_limit,
    )


def teachers_of(arch: StudentArch, registry: Registry, report: Report) -> list[TeacherFacts]:
    """Every teacher that the architect decided about, and the checkpoint that the student started from.

    What it gave comes first in a teacher's fate, whatever else it was dropped for: by that the bundle names its licence.
    """
    fates: dict[str, list[str]] = {}
    words = {"keep": "distilled into", "merge": "merged for", "drop": "dropped for"}
    for decision in arch.decisions:
        teacher, _, capability = decision.subject.partition("/")
        if decision.action in words and teacher in registry.teachers and capability in registry.capabilities:
            fates.setdefault(teacher, []).append(f"{words[decision.action]} {capability}: {decision.reason}")
    if arch.backbone_source in registry.teachers:
        fates.setdefault(arch.backbone_source, []).append("the backbone: its weights are where the student started")
    weights = {name: facts["weights_sha256"] for name, facts in report.body["isolation"]["teachers"].items()}
    for fate in fates.values():
        fate.sort(key=lambda one: one.startswith(NOT_USED))
    return [
        TeacherFacts(name, weights.get(name), registry.teachers[name].license, "; ".join(fate))
        for name, fate in sorted(fates.items())
    ]


def _versions(arch: StudentArch, plugins: Plugins) -> dict[str, str]:
    """The core, and the plugins of the student's towers and capabilities."""
    names = {adapter.capability for adapter in arch.adapters} | {tower.name for tower in arch.towers}
    used = [
        status.ref for status in plugins.status() if status.ref.kind.value != "teacher" and status.ref.name in names
    ]
    return {"nexus-core": version("nexus-core"), **{ref.distribution: ref.version for ref in used}}
