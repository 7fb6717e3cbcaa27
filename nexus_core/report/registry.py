"""What became of every teacher of the registry, and how to get one that is not here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.profiling.model import CapabilityProfile
from nexus_core.registry import Registry, TeacherRow, resolve_path
from nexus_core.registry.paths import how_to_get
from nexus_core.report.artifacts import Part, absent, reading
from nexus_core.study.unit import read_json

FILE = "registry_report.json"  # written by `nexus run`, which knows what was selected
ORDER = ("selected", "profiled", "merged", "dropped", "here, not profiled", "absent", "backbone")
KEYS = ("teacher", "status", "reason", "how", "capabilities")


def registry_part(run: Path, registry: Registry | None, profiles: Sequence[CapabilityProfile]) -> Part:
    """A row for each teacher. Without the run's own word: from the registry as it is now, and what was profiled."""
    told = read_json(run / FILE)
    if told is not None:
        with reading(run / FILE):
            return _part(FILE, [{key: row[key] for key in KEYS} for row in told["teachers"]])
    if registry is None:
        return absent("the registry was not read", "registry", "list")
    taught: dict[str, list[str]] = {}
    for profile in profiles:
        taught.setdefault(profile.teacher, []).append(profile.capability)
    return _part("registry.yaml", [_row(row, taught.get(row.id, [])) for row in registry.teachers.values()])


def _part(source: str, rows: Sequence[Part]) -> Part:
    known = [*ORDER, *sorted({row["status"] for row in rows} - set(ORDER))]
    found = sorted(rows, key=lambda row: (known.index(row["status"]), row["teacher"]))
    return {"source": source, "groups": list(_groups(found))}


def _groups(rows: Sequence[Part]) -> Iterator[Mapping[str, Any]]:
    for status in dict.fromkeys(row["status"] for row in rows):
        own = [{key: row[key] for key in KEYS if key != "status"} for row in rows if row["status"] == status]
        yield {"status": status, "n": len(own), "rows": own}


def _row(row: TeacherRow, capabilities: list[str]) -> Part:
    status, reason, how = _standing(row, capabilities)
    return {"teacher": row.id, "status": status, "reason": reason, "how": how, "capabilities": capabilities}


def _standing(row: TeacherRow, capabilities: list[str]) -> tuple[str, str, str]:
    if row.role != "teacher":
        return "backbone" if row.role == "backbone" else "dropped", f"its role in the registry is {row.role}", ""
    if row.fate is not None:
        return "merged" if row.fate.into else "dropped", str(row.fate), ""
    if capabilities:
        return "profiled", "", ""
    presence = resolve_path(row)
    if presence.path is None:
        return "absent", presence.reason, how_to_get(row, presence.reason)
    if row.refinement:
        return "dropped", "a super-teacher: it is added alone, after a bundle has passed", ""
    wanted = f"nexus profile --teacher {row.id} --capability {row.capabilities[0]}" if row.capabilities else ""
    return "here, not profiled", f"it could teach {', '.join(row.capabilities) or 'nothing that is listed'}", wanted
