"""Change a registry file as text, so that comments and formatting of whoever keeps it stay.

Each change is read back before anybody sees it: it has added what it was meant to, and nothing else is different.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import yaml

from nexus_core.registry.problems import ProblemError
from nexus_core.registry.reader import Document, Place, parse_document

TEACHERS = "teachers"
_INDENT = 2  # of the first row, where there is none to go by


def with_rows(document: Document, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The file's text with these teachers after its last one."""
    if not rows:
        return document.text
    key = (TEACHERS,)
    place, wanted = document.places[key], deepcopy(document.data)
    wanted[TEACHERS].update(rows)
    if place.flow and not document.data[TEACHERS]:  # `teachers: {}`
        lines = document.text.splitlines(keepends=True)
        lines[place.line - 1] = lines[place.line - 1].replace("{}", "").rstrip() + "\n"
        return _read_back(document, _joined(lines, place.line, render(rows, _INDENT)), wanted, key)
    return _read_back(document, _after(document, key, place, render(rows, place.column)), wanted, key)


def with_field(document: Document, teacher: str, name: str, value: Any) -> str:
    """The file's text with one field more at the end of a teacher's row."""
    key = (TEACHERS, teacher)
    place, wanted = document.places[key], deepcopy(document.data)
    wanted[TEACHERS][teacher][name] = value
    return _read_back(document, _after(document, key, place, render({name: value}, place.column)), wanted, key)


def render(values: Mapping[str, Any], column: int) -> str:
    """YAML, indented. A mapping or list that holds only plain values is written on one line."""
    if not values:
        return ""
    plain = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    dumped = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, width=100_000, default_flow_style=None)
    return "".join(" " * column + line for line in dumped.splitlines(keepends=True))


def _after(document: Document, key: tuple[str, ...], place: Place, text: str) -> str:
    """`text` behind the last line of a block; what is written in braces has no such place."""
    if place.flow:
        hint = f"write `{key[-1]}:` as a block: one indented line for each key"
        raise ProblemError(document.problem(key, f"nothing can be added to {'.'.join(key)}: it is in braces", hint))
    lines, end = document.text.splitlines(keepends=True), place.end_line
    while end > 1 and not lines[end - 1].strip():
        end -= 1
    return _joined(lines, end, text)


def _joined(lines: list[str], end: int, text: str) -> str:
    """Lines of one file end alike."""
    if not lines[end - 1].endswith("\n"):
        lines[end - 1] += "\n"
    return "".join([*lines[:end], text.replace("\n", "\r\n" if lines[0].endswith("\r\n") else "\n"), *lines[end:]])


def _read_back(document: Document, text: str, wanted: Mapping[str, Any], key: tuple[str, ...]) -> str:
    if parse_document(text, document.path).data != wanted:
        hint = "write the row as plain indented lines, or make the change by hand"
        raise ProblemError(document.problem(key, f"nothing can be added to {'.'.join(key)} as it is written", hint))
    return text
