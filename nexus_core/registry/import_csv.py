"""Make registry rows from a CSV of teachers, by appending text: hand edits and comments of the file stay."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic
from nexus_core.discovery import discover, registry_fragments
from nexus_core.registry.csv_rows import CsvTeacher, read_csv
from nexus_core.registry.edit import render, with_rows
from nexus_core.registry.load import check_own
from nexus_core.registry.problems import at, raise_first
from nexus_core.registry.reader import Document, read_document
from nexus_core.resources import shared_path

LONGEST_ID = 128  # an id names a directory
UNKNOWN_LICENSE = "unknown: check before profiling"


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import did: ids added and kept, hand edits that it left alone, and what it could not map."""

    registry: Path
    added: tuple[str, ...]
    kept: tuple[str, ...]
    edited: tuple[str, ...]
    unmapped: tuple[str, ...]
    text: str


def import_csv(csv_path: Path, registry_path: Path, dry_run: bool = False) -> ImportReport:
    """Append a row for each teacher of the CSV that the registry does not have yet.

    A registry that does not exist yet starts as a copy of the one that ships.
    """
    teachers = read_csv(csv_path)
    start = registry_path if registry_path.exists() else shared_path("registry.yaml")
    raise_first(check_own(start, registry_fragments(discover()))[0])
    document = read_document(start)
    known = _known(document)
    new = [teacher for teacher in teachers if not _match(known, teacher)]
    old = {match: teacher for teacher in teachers if (match := _match(known, teacher))}
    rows = _new_rows(csv_path, document, new)
    text = with_rows(document, rows)
    if not dry_run:
        _write(registry_path, start, text if rows else None)
    return ImportReport(
        registry=registry_path,
        added=tuple(rows),
        kept=tuple(old),
        edited=tuple(edit for row_id, teacher in old.items() for edit in _edits(row_id, known[row_id], teacher)),
        unmapped=tuple(f"{row_id}: {row['category']}" for row_id, row in rows.items() if row.get("unmapped")),
        text=render(rows, 0),
    )


def teacher_id(name: str) -> str:
    """The id of a teacher: its name in lower case, with `-` for everything but letters, digits and dots."""
    return re.sub(r"[^a-z0-9.]+", "-", name.casefold()).strip("-.")


def _known(document: Document) -> dict[str, dict[str, Any]]:
    teachers: dict[str, dict[str, Any]] = document.data["teachers"]
    return teachers


def _match(known: dict[str, dict[str, Any]], teacher: CsvTeacher) -> str | None:
    """Id of the row that this teacher already has, by name or by id."""
    by_name = {row["name"].casefold(): row_id for row_id, row in known.items()}
    own = teacher_id(teacher.name)
    return by_name.get(teacher.name.casefold()) or (own if own in known else None)


def _edits(row_id: str, row: dict[str, Any], teacher: CsvTeacher) -> list[str]:
    fields = ("name", "parameters", "category", "best_feature")
    return [
        f'{row_id}: {name} is "{row[name]}", the CSV has "{getattr(teacher, name)}"'
        for name in fields
        if row[name] != getattr(teacher, name)
    ]


def _new_rows(csv_path: Path, document: Document, teachers: Sequence[CsvTeacher]) -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    for teacher in teachers:
        row_id = teacher_id(teacher.name)
        if not 0 < len(row_id) <= LONGEST_ID:
            hint = f"use Latin letters or digits, at most {LONGEST_ID}"
            raise at(csv_path, teacher.line, f'no id can be made of "{teacher.name[:60]}"', hint)
        first = lines.setdefault(row_id, teacher.line)
        if first != teacher.line:
            message = f'"{teacher.name}" gives the id {row_id}, and so does line {first}'
            raise at(csv_path, teacher.line, message, "give one of the two another name")
        rows[row_id] = _row(document, teacher)
    return rows


def _row(document: Document, teacher: CsvTeacher) -> dict[str, Any]:
    """A row in the CSV's wording, with what its category says; `unmapped` when it says nothing."""
    row: dict[str, Any] = {
        "name": teacher.name,
        "parameters": teacher.parameters,
        "category": teacher.category,
        "best_feature": teacher.best_feature,
    }
    mapping = mapped(document, teacher.category, teacher.best_feature)
    row["tower"] = mapping.get("tower")
    row.update({key: mapping[key] for key in ("role", "mode") if key in mapping})
    row["capabilities"] = mapping.get("capabilities", [])
    if not mapping:
        row["unmapped"] = True
    return row | {"path": None, "license": UNKNOWN_LICENSE}


def mapped(document: Document, category: str, best_feature: str) -> dict[str, Any]:
    """What the table says of this category, as far as this registry has the tower and the capabilities for it."""
    category = category.casefold()
    found = next((rule for rule in _rules() if re.search(rf"\b{re.escape(rule['word'])}\b", category)), None)
    if found is None:
        return {}
    known = document.data["capabilities"]
    wanted = found.get("capabilities", [])
    if found["word"] == "refinement":  # such a row names what it refines as its best feature
        wanted = [best_feature]
    capabilities = [name for name in wanted if name in known]
    if found["tower"] not in document.data["towers"] or len(capabilities) < len(wanted):
        return {}
    return {**found, "capabilities": capabilities}


@cache
def _rules() -> list[dict[str, Any]]:
    rules: list[dict[str, Any]] = json.loads(
        files("nexus_core.registry").joinpath("categories.json").read_text("utf-8")
    )
    return rules


def _write(target: Path, start: Path, text: str | None) -> None:
    if text is not None:
        write_atomic(target, text.encode())
    elif start != target:
        shutil.copyfile(start, target)
