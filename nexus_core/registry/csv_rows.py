"""Read a CSV of teachers: model name, parameters, category, best feature."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from nexus_core.registry.problems import at
from nexus_core.registry.reader import read_text

_COLUMNS = {"modelname": "name", "parameters": "parameters", "category": "category", "bestfeature": "best_feature"}
_LONGEST = 1000  # characters of one field
_HEADER = '"Model Name","Parameters","Category","Best Feature"'


@dataclass(frozen=True, slots=True)
class CsvTeacher:
    """One row, in the CSV's own wording."""

    line: int
    name: str
    parameters: str
    category: str
    best_feature: str


def read_csv(path: Path) -> list[CsvTeacher]:
    """Every row, each once. Anything malformed is an error that names its line."""
    rows = _cells(path, _text(path))
    if not rows:
        raise at(path, 1, "the file is empty", f"the first line is {_HEADER}")
    columns = _columns(path, *rows[0])
    teachers: list[CsvTeacher] = []
    seen: dict[str, int] = {}
    for line, cells in rows[1:]:
        teacher = _teacher(path, line, columns, cells)
        first = seen.setdefault(teacher.name.casefold(), line)
        if first != line:
            raise at(path, line, f'"{teacher.name}" is already on line {first}', "keep one of the two rows")
        teachers.append(teacher)
    if not teachers:
        raise at(path, rows[0][0], "a header and no rows", "add one row for each teacher")
    return teachers


def _text(path: Path) -> str:
    text = read_text(path)
    control = next((char for char in text if not char.isprintable() and char not in "\r\n\t\u00a0\u200b"), None)
    if control is not None:
        line = text[: text.index(control)].count("\n") + 1
        raise at(path, line, f"a control character (U+{ord(control):04X})", "export the table as CSV, in UTF-8")
    return text


def _cells(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """(line, cells) of each line that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows: list[tuple[int, list[str]]] = []
    line = 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                rows.append((line, [cell.strip() for cell in cells]))
            line = reader.line_num + 1
    except csv.Error as error:
        raise at(path, line, f"not CSV: {error}", "quote each field, and double a quote inside one") from error
    return rows


def _columns(path: Path, line: int, header: list[str]) -> list[str | None]:
    """For each column the field that it fills; None for one that the registry has no field for."""
    keys = ["".join(filter(str.isalnum, cell.casefold())) for cell in header]
    columns = [_COLUMNS.get(key) for key in keys]
    for key, name in _COLUMNS.items():
        if name not in columns:
            shown = {"modelname": "Model Name", "bestfeature": "Best Feature"}.get(key, key.capitalize())
            raise at(path, line, f'no column "{shown}"', f"the header is {_HEADER}")
        if columns.count(name) > 1:
            raise at(path, line, f'the column "{header[columns.index(name)]}" appears twice', "keep one of the two")
    return columns


def _teacher(path: Path, line: int, columns: list[str | None], cells: list[str]) -> CsvTeacher:
    if len(cells) != len(columns):
        hint = "quote a field that has a comma in it"
        raise at(path, line, f"{len(cells)} fields, where the header has {len(columns)}", hint)
    values = {name: cell for name, cell in zip(columns, cells, strict=True) if name}
    for name, value in values.items():
        if not value:
            raise at(path, line, f"the field {name} is empty", 'write what is known, or "Not specified"')
        if len(value) > _LONGEST:
            raise at(path, line, f"the field {name} has {len(value)} characters", f"at most {_LONGEST}")
    return CsvTeacher(line, **values)
