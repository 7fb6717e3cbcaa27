"""report.json: everything that report.html shows, and nothing that the run's artifacts do not say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nexus_core.distill.journal import finite
from nexus_core.plugins import Plugins
from nexus_core.registry import Registry
from nexus_core.report.answers import MOST, answers_part
from nexus_core.report.artifacts import Part, readable
from nexus_core.report.commands import commands_part
from nexus_core.report.conditions import conditions_part
from nexus_core.report.facts import decisions_part, planned, router_part, sizes_part
from nexus_core.report.forms import forms_part
from nexus_core.report.profiles import profiles_part, read_profiles
from nexus_core.report.registry import registry_part
from nexus_core.report.retention import retention, study_part
from nexus_core.report.times import times_part
from nexus_core.report.trainings import trainings_part
from nexus_core.student.arch import StudentArch

FORMAT = 1


@dataclass(frozen=True, slots=True)
class ReportOrder:
    """What to report on. `registry`: to compare contracts with; `plugins`: to ask the student `answers` samples of each
    capability; `bundle`: where one lies outside the run."""

    run: Path
    registry: Registry | None = None
    plugins: Plugins | None = None
    bundle: Path | None = None
    answers: int = MOST


def collect(order: ReportOrder) -> Part:
    """The whole document. A part that the run has not made is {"absent": why, "command": what makes it}."""
    run = order.run
    profiles, arch = read_profiles(run), planned(run)
    kept, trainings = retention(run, order.registry), trainings_part(run)
    document: Part = {
        "format": FORMAT,
        "run": run.name or str(run),
        "retention": kept,
        "conditions": conditions_part(run),
        "forms": forms_part(run, order.bundle),
        "study": study_part(run),
        "registry": registry_part(run, order.registry, profiles),
        "profiles": profiles_part(run, profiles),
        "trainings": trainings,
        "router": router_part(run),
        "sizes": sizes_part(run, arch, order.bundle),
        "times": times_part(run, profiles, trainings),
        "decisions": decisions_part(run, arch),
        "answers": answers_part(run, profiles, order.plugins, hidden(order, arch), order.answers),
        "commands": commands_part(run, profiles, arch, kept),
    }
    found: Part = readable(finite(document))
    return found


def hidden(order: ReportOrder, arch: StudentArch | None) -> set[str]:
    """The capabilities whose answers nobody gets to see without asking for them."""
    planned = set() if arch is None else {adapter.capability for adapter in arch.adapters if adapter.isolated}
    rows = () if order.registry is None else order.registry.capabilities.values()
    return planned | {row.id for row in rows if row.isolated}
