"""After a pass: the teachers for good, and what it would take to repeat the run without them.

Deleted are directories of the run's own teacher cache, and others only where the user names them one by one.
"""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic
from nexus_core.bundle.digest import student_digest
from nexus_core.discovery import discover
from nexus_core.errors import ContractFailed, UsageError
from nexus_core.gate.report import HASH, Report, check_report
from nexus_core.profiling import OUTPUT
from nexus_core.registry import Registry, resolve_path

CACHE = "teachers"  # of a run: what was fetched for it alone
REPRO = "repro_manifest.json"
LIBRARIES = ("nexus-core", "torch", "transformers", "safetensors", "tokenizers", "numpy")


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of one teacher. `path` is None where it is not on this machine."""

    teacher: str
    path: Path | None
    deleted: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Removal:
    """What the user asks for: the teachers of this subject, those outside of the run's cache only where they are named."""

    run: Path
    subject: Path
    registry: Registry
    report: Report
    named: tuple[Path, ...] = ()


def fates(run: Path, registry: Registry, report: Report, named: Sequence[Path]) -> list[Fate]:
    """What will be deleted, and why the rest is kept. A named path that is no teacher of this student is an error."""
    wanted = {path.resolve() for path in named}
    found: list[Fate] = []
    for teacher in report.body["isolation"]["teachers"]:
        presence = resolve_path(registry.teacher(teacher))
        if presence.path is None:
            found.append(Fate(teacher, None, False, "not on this machine"))
            continue
        path = presence.path.resolve()
        own = path.is_relative_to((run / CACHE).resolve())
        reason = "in the run's cache" if own else "named" if path in wanted else f"outside {run / CACHE}, and not named"
        found.append(Fate(teacher, path, own or path in wanted, reason))
        wanted.discard(path)
    if wanted:
        listed = ", ".join(str(fate.path) for fate in found if fate.path) or "none"
        raise UsageError(f"{min(wanted)} is no teacher of this student", f"its teachers lie in: {listed}")
    return found


def delete_teachers(order: Removal, command: str) -> list[Fate]:
    """Remove what is to go. Only after a pass, which is not believed but checked: the report, and that it is about this."""
    report, registry = order.report, order.registry
    problems = check_report(report, registry, student_digest(order.subject))
    if not report.passed or problems:
        raise ContractFailed(
            f"no teacher is deleted: {'; '.join(problems) or f'the verdict is {report.verdict}'}",
            "verify all of the student, and that it passes",
        )
    chosen = fates(order.run, registry, report, order.named)
    write_repro(order.run, registry, report, chosen, command)
    for fate in chosen:
        if fate.deleted and fate.path is not None:
            shutil.rmtree(fate.path) if fate.path.is_dir() else fate.path.unlink()
    return chosen


def write_repro(run: Path, registry: Registry, report: Report, chosen: Sequence[Fate], command: str) -> Path:
    """Everything that names the run's inputs, for whoever has to make it again: written before anything is deleted."""
    gone = {fate.teacher: fate for fate in chosen}
    content: dict[str, Any] = {
        "format_version": 1,
        "command": command,
        "seed": report.body["seed"],
        "student_sha256": report.subject_sha256,
        "report_sha256": report.body[HASH],
        "registry_sha256": _sha256(registry.path),
        "profiles_sha256": student_digest(run / OUTPUT),
        "teachers": {name: _teacher(registry, name, report, gone[name]) for name in gone},
        "contracts": {name: _contract(row) for name, row in report.capabilities.items()},
        "versions": _versions(),
    }
    path = run / REPRO
    write_atomic(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def _teacher(registry: Registry, name: str, report: Report, fate: Fate) -> dict[str, Any]:
    row = registry.teacher(name)
    return {
        "source": row.source,
        "licence": row.license,
        "weights_sha256": report.body["isolation"]["teachers"][name]["weights_sha256"],
        "fate": "deleted" if fate.deleted else f"kept: {fate.reason}",
    }


def _contract(row: Mapping[str, Any]) -> dict[str, Any]:
    keys = (
        "teacher",
        "benchmark",
        "metric",
        "direction",
        "retain_fraction",
        "minimum",
        "teacher_score",
        "student_score",
    )
    return {key: row[key] for key in keys}


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found | {ref.distribution: ref.version for ref in discover()}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
