"""Teachers come into the registry, and are set aside in it with a reason. The files of a teacher are never touched.

The registry is changed as text, so its comments stay; what it would say is checked whole before it is written; and it is
written whole or not at all, by one process at a time.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.atomic import check_writable, write_atomic
from nexus_core.errors import ModelError, RegistryError, StateError, UsageError
from nexus_core.lock import held
from nexus_core.plugins import Plugins
from nexus_core.printable import one_line
from nexus_core.registry import Fate, Registry, TeacherRow, resolve_path
from nexus_core.registry.edit import with_field, with_rows
from nexus_core.registry.import_csv import LONGEST_ID, UNKNOWN_LICENSE, mapped, teacher_id
from nexus_core.registry.load import Fragments, load_tolerant
from nexus_core.registry.paths import PACKAGE
from nexus_core.registry.reader import Document, parse_document, read_document, read_text
from nexus_core.resources import shared_path
from nexus_core.types import Category, Detection, ModelSource

_ID = re.compile(r"[a-z0-9][a-z0-9._-]*")
_UNSAID = "Not specified"  # in the wording of the teachers' CSV
_WORDS = {
    Category.TRANSFORMERS: "Language model",
    Category.VISION_ENCODER: "Vision encoder",
    Category.ASR: "Audio (ASR)",
    Category.TTS: "Audio (TTS)",
    Category.AUDIO_CODEC: "Audio (speech tokenizer)",
    Category.MULTIMODAL: "Vision-language (multimodal)",
    Category.DIFFUSERS: "Image generation",
    Category.SAE: "Sparse autoencoder",
}


@dataclass(frozen=True, slots=True)
class NewTeacher:
    """What the user says of a teacher; everything else is looked up. `path` None: it is not on this machine (yet)."""

    path: Path | None = None
    source: str | None = None
    id: str | None = None
    name: str | None = None
    parameters: str | None = None
    category: str | None = None
    best_feature: str = _UNSAID
    tower: str | None = None
    capabilities: tuple[str, ...] = ()
    role: str | None = None
    license: str = UNKNOWN_LICENSE


@dataclass(frozen=True, slots=True)
class Edit:
    """What a command did: the registry as it is now, the row, the text that was added, and what a plugin saw."""

    registry: Registry
    row: TeacherRow
    seen: str = ""

    @property
    def orphans(self) -> list[str]:
        """The capabilities of this row that no teacher is left for."""
        teaching = {c for t in self.registry.teachers.values() if t.fate is None for c in t.capabilities}
        return [name for name in self.row.capabilities if name not in teaching]


@dataclass(frozen=True, slots=True)
class RegistryFile:
    """The file to change, and the rows that plugins bring. One that is not there starts as a copy of the one that ships."""

    path: Path
    fragments: Fragments = ()
    dry_run: bool = False

    def add(self, new: NewTeacher, plugins: Plugins) -> Edit:
        """Append a row for a teacher, whose category the plugins detect."""
        seen, category = _look(new, plugins)
        known = new.id or _id_of(new)

        def change(document: Document, registry: Registry) -> str:
            _refuse_known(new, known, registry)
            return with_rows(document, {known: _row(new, category, document, registry)})

        with self._edited(change) as registry:
            row = registry.teacher(known)
            found = resolve_path(row)
            if new.path is not None and (found.path is None or not found.path.samefile(new.path)):
                raise RegistryError(
                    f"{new.path} cannot be written as a path of {self.path}: it would be {row.path!r}",
                    "give it another name, or write its row by hand",
                )
            return Edit(registry, row, seen)

    def set_aside(self, teacher: str, fate: Fate) -> Edit:
        """Say in a teacher's row that it is dropped, or merged into another one, and why."""
        reason = one_line(fate.reason)
        if not reason:
            raise UsageError("no reason is given", 'say why, for whoever reads the report: --reason "..."')
        said = {"action": fate.action, **({"into": fate.into} if fate.into else {}), "reason": reason}

        def change(document: Document, registry: Registry) -> str:
            row = registry.teacher(teacher)
            if row.fate is not None:
                where = f"{row.origin.path}:{row.origin.line}"
                raise RegistryError(f"{teacher} is {row.fate} ({where})", "take `fate:` out of its row first")
            if teacher in document.data["teachers"]:
                return with_field(document, teacher, "fate", said)
            return with_rows(document, {teacher: {**_of_plugin(row), "fate": said}})

        with self._edited(change) as registry:
            return Edit(registry, registry.teacher(teacher))

    @contextmanager
    def _edited(self, change: Callable[[Document, Registry], str]) -> Iterator[Registry]:
        """The registry as it will be. It is written when the block ends well."""
        check_writable(self.path)
        try:
            with held(self.path.absolute().parent):
                start = self.path if self.path.exists() else shared_path("registry.yaml")
                text = read_text(start)
                registry, _ = load_tolerant(self.path, self.fragments, text)
                changed = change(parse_document(text, self.path), registry)
                registry, _ = load_tolerant(self.path, self.fragments, changed)
                yield registry
                if not self.dry_run:
                    write_atomic(self.path, changed.encode())
        except BlockingIOError:
            raise StateError(f"{self.path} is being changed by another process", "try again in a moment") from None


def _look(new: NewTeacher, plugins: Plugins) -> tuple[str, str]:
    """What a plugin says about the files, and the category in words. Only configurations and headers are read."""
    if new.path is None:
        if new.source is None:
            raise UsageError("no teacher is named", "give its directory, or --source NAME for one that is elsewhere")
        if new.category is None and not (new.capabilities or new.role):
            hint = 'say what it is (--category "Language model") or what it is for (--capability NAME)'
            raise UsageError(f"{new.source} is not here to be looked at", hint)
        return "", new.category or _UNSAID
    if not new.path.exists():
        hint = f"one that is not on this machine is named so: nexus teacher add --source {new.path}"
        raise ModelError(f"{new.path}: no such file or directory", hint)
    claim = plugins.detect(ModelSource(new.path))
    found: Detection = claim.detection
    return f"{found.category.value} ({found.evidence}), says {claim.plugin}", new.category or _WORDS[found.category]


def _id_of(new: NewTeacher) -> str:
    return teacher_id(_name_of(new))


def _name_of(new: NewTeacher) -> str:
    return new.name or new.source or (new.path.absolute().name if new.path is not None else "")


def _refuse_known(new: NewTeacher, known: str, registry: Registry) -> None:
    """A teacher has one row, whatever it is called and wherever it lies."""
    if not _ID.fullmatch(known) or len(known) > LONGEST_ID:
        raise UsageError(
            f"{known[:60]!r} cannot be an id", f"--id: lower-case letters, digits, - _ and ., at most {LONGEST_ID}"
        )
    for row in registry.teachers.values():
        if (same := _same(new, known, row)) is None:
            continue
        where = f"{row.origin.path}:{row.origin.line}"
        hint = f"set `path:` there, or choose another --id and --name ({where})"
        if row.fate is not None:
            hint = f"it is {row.fate}; take `fate:` out of its row to have it back ({where})"
        raise RegistryError(f"{row.id} is in the registry already: it has {same}", hint)


def _same(new: NewTeacher, known: str, row: TeacherRow) -> str | None:
    """What a row has in common with the new one that only one of them may have."""
    if row.id == known:
        return f"the id {known}"
    if row.name.casefold() == _name_of(new).casefold():
        return f"the name {row.name}"
    if new.source and row.source and row.source.casefold() == new.source.casefold():
        return f"the source {row.source}"
    lies = resolve_path(row).path
    if new.path is not None and lies is not None and lies.samefile(new.path):
        return f"the files in {new.path}"
    return None


def _row(new: NewTeacher, category: str, document: Document, registry: Registry) -> dict[str, Any]:
    """In the order in which rows are written."""
    table = mapped(document, category, new.best_feature)
    role = new.role or table.get("role", "teacher")
    carried = [registry.capability(name).id for name in new.capabilities]
    tower = new.tower or (registry.capability(carried[0]).tower if carried else table.get("tower"))
    if not carried and role == "teacher":
        carried = table.get("capabilities", [])
    if tower is None or not (carried or role != "teacher"):
        raise UsageError(
            f'what a "{category}" is for is not known here',
            f"say it: --capability NAME ({', '.join(registry.capabilities)}), or --role backbone --tower text",
        )
    return {
        "name": _name_of(new),
        "parameters": new.parameters or _counted(new.path),
        "category": category,
        "best_feature": new.best_feature,
        **({"source": new.source} if new.source else {}),
        "tower": tower,
        **({"role": role} if role != "teacher" else {}),
        **({"mode": table["mode"]} if "mode" in table else {}),
        "capabilities": carried,
        "path": None if new.path is None else _path_text(new.path, registry.path),
        "license": new.license,
    }


def _counted(path: Path | None) -> str:
    """Parameters by the headers of its files, as rows write them."""
    from nexus_core.architect.budget import checkpoint_size

    count = None if path is None else checkpoint_size(path)
    if count is None:
        return _UNSAID
    unit, size = next(((u, s) for u, s in (("B", 1e9), ("M", 1e6), ("K", 1e3)) if count >= s), ("", 1.0))
    return f"{count / size:.3g}{unit}"


def _path_text(path: Path, registry: Path) -> str:
    """Relative to the registry where it lies below it; absolute where the words of a path would mean something else."""
    lies, around = Path(os.path.abspath(path)), registry.absolute().parent  # noqa: PTH100 - a link stays one
    text = str(lies.relative_to(around)) if lies.is_relative_to(around) else str(lies)
    if not text.isprintable():  # also bytes that are no UTF-8
        raise UsageError(
            f"{one_line(repr(text))} is no path that a registry can hold", "give the directory another name"
        )
    return str(lies) if text.startswith(("~", PACKAGE)) else text


def _of_plugin(row: TeacherRow) -> dict[str, Any]:
    """The row as a plugin's file has it, for a file that lies elsewhere."""
    data: dict[str, Any] = dict(read_document(row.origin.path).data["teachers"][row.id])
    path = data.get("path")
    if path is not None and not path.startswith(PACKAGE):
        data["path"] = str(row.origin.path.parent.absolute() / Path(path).expanduser())
    return data
