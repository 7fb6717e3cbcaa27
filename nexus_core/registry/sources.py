"""Registry files on their way to become rows: whose they are, and which of them owns each row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from nexus_core.registry.model import Origin
from nexus_core.registry.problems import Problem
from nexus_core.registry.reader import Document

SECTIONS = ("towers", "capabilities", "teachers")


@dataclass(frozen=True, slots=True)
class Source:
    """One file, and whose it is: "registry", or a plugin's name."""

    owner: str
    document: Document


@dataclass(frozen=True, slots=True)
class RawRow:
    """A row as written, with a way to say where."""

    section: str
    id: str
    data: dict[str, Any]
    source: Source

    @property
    def origin(self) -> Origin:
        document = self.source.document
        return Origin(self.source.owner, document.path, document.line((self.section, self.id)))

    def problem(self, key: tuple[str | int, ...], message: str, hint: str) -> Problem:
        return self.source.document.problem((self.section, self.id, *key), message, hint)


@dataclass(frozen=True, slots=True)
class Merged:
    """The project's defaults, and for each section the source that owns each id."""

    defaults: dict[str, Any]
    rows: dict[str, dict[str, Source]]
    project: Source | None = None

    def each(self, section: str) -> Iterator[RawRow]:
        for row_id, source in self.rows[section].items():
            yield RawRow(section, row_id, source.document.data[section][row_id], source)
