"""Read YAML into plain values with a line for each of them, and refuse what data never needs.

PyYAML's own composer recurses and expands aliases. Here its *events* are read one by one, so that a hostile file
(nested ten thousand deep, a billion laughs, a cycle, a python/object tag) is refused where it starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from nexus_core.registry.problems import Problem, ProblemError, at

MAX_BYTES = 4 * 1024 * 1024
MAX_DEPTH = 16  # the deepest legitimate value, a number in a teacher's contract, lies at depth 5
MAX_VALUES = 50_000

Key = tuple[str | int, ...]
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SCALAR_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}


@dataclass(slots=True)
class Place:
    """Where a value lies; lines count from 1. `column` and `flow` are those of a mapping's content."""

    line: int
    end_line: int = 0
    column: int = 0
    flow: bool = False


@dataclass(slots=True)
class Document:
    """A file's values, the place of each, and the duplicate keys found on the way."""

    path: Path
    text: str
    data: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, Place] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, key: Key) -> int:
        """Line of the value at `key`, or of the nearest value around it."""
        while key and key not in self.places:
            key = key[:-1]
        return self.places[key].line if key in self.places else 1

    def problem(self, key: Key, message: str, hint: str = "") -> Problem:
        return Problem(self.path, self.line(key), message, hint, _row(key))


def read_document(path: Path) -> Document:
    """Read one registry file; raise ProblemError, with its line, when it is not YAML of the plain kind."""
    return parse_document(read_text(path), path)


def parse_document(text: str, path: Path) -> Document:
    """Read the text of a registry file that lies, or will lie, at `path`."""
    document = Document(path, text)
    try:
        loader = _LOADER(text)
        root = _Builder(document, loader).build(_events(loader))
    except yaml.YAMLError as error:
        raise _syntax_error(path, text, error) from error
    if not isinstance(root, dict):
        what = "empty" if root is None else f"a {_kind(root)}, not a mapping"
        raise at(path, 1, f"the file is {what}", "start from the registry.yaml that ships with Nexus")
    document.data = root
    return document


def read_text(path: Path) -> str:
    """The text of a file, or an error that says why it is none."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise at(path, 1, f"cannot be read ({error.strerror})", "give the path of a file") from error
    if len(raw) > MAX_BYTES:
        raise at(path, 1, f"larger than {MAX_BYTES // 1024**2} MB", "a registry holds rows, not data")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise at(path, line, f"not UTF-8 text (byte {error.start})", "save the file as UTF-8") from error


def _syntax_error(path: Path, text: str, error: yaml.YAMLError) -> ProblemError:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    written = next(iter(text.splitlines()[line - 1 : line]), "")
    if "\t" in written[: len(written) - len(written.lstrip())]:
        return at(path, line, "a tab in the indentation", "indent with spaces: YAML forbids tabs there")
    reason = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error).splitlines()[0]
    return at(path, line, f"not YAML: {reason}", f"look at line {line}, and at the one before it")


def _events(loader: Any) -> Iterator[yaml.Event]:
    while loader.check_event():
        yield loader.get_event()


@dataclass(slots=True)
class _Frame:
    """An open mapping or sequence, and the mapping key whose value comes next."""

    container: dict[str, Any] | list[Any]
    key: Key
    pending: str | None = None


class _Builder:
    """Turns events into values; keeps its own stack, so that depth is a number and not a crash."""

    def __init__(self, document: Document, loader: Any) -> None:
        self.document = document
        self.loader = loader
        self.frames: list[_Frame] = []
        self.root: Any = None
        self.documents = 0
        self.last_line = 1

    def build(self, events: Iterator[yaml.Event]) -> Any:
        handlers: dict[type, Callable[[Any], None]] = {
            yaml.ScalarEvent: self._scalar,
            yaml.MappingStartEvent: self._open,
            yaml.SequenceStartEvent: self._open,
            yaml.MappingEndEvent: self._close,
            yaml.SequenceEndEvent: self._close,
            yaml.DocumentStartEvent: self._document,
            yaml.AliasEvent: self._alias,
        }
        for event in events:
            handler = handlers.get(type(event))
            if handler is not None:
                handler(event)
        return self.root

    def _refuse(self, event: Any, message: str, hint: str) -> ProblemError:
        return at(self.document.path, event.start_mark.line + 1, message, hint)

    def _document(self, event: Any) -> None:
        self.documents += 1
        if self.documents > 1:
            raise self._refuse(event, "a second YAML document", "keep one document: remove the `---` line")

    def _alias(self, event: Any) -> None:
        raise self._refuse(event, f"an alias (*{event.anchor})", "write the value out: anchors and aliases are refused")

    def _plain(self, event: Any) -> None:
        if event.anchor is not None:
            hint = "write the value out: anchors and aliases are refused"
            raise self._refuse(event, f"an anchor (&{event.anchor})", hint)
        if event.tag is not None:
            raise self._refuse(event, f"a tag ({event.tag})", "remove it: the registry holds plain data")

    def _scalar(self, event: Any) -> None:
        self._plain(event)
        frame = self.frames[-1] if self.frames else None
        # A multi-line scalar's end mark is the start of the line after it.
        self.last_line = event.end_mark.line + (1 if event.end_mark.column else 0) or 1
        if frame is not None and isinstance(frame.container, dict) and frame.pending is None:
            self._key(frame, event)
        else:
            self._put(self._value(event), event)

    def _key(self, frame: _Frame, event: Any) -> None:
        if event.value in frame.container:
            line = event.start_mark.line + 1
            first = self.document.places[(*frame.key, event.value)].line
            message = f'"{event.value}" appears twice{_inside(frame.key)} (lines {first} and {line})'
            row = _row((*frame.key, event.value))
            self.document.problems.append(Problem(self.document.path, line, message, "keep one of the two", row))
        elif not frame.container:
            self.document.places[frame.key].column = event.start_mark.column
        self.document.places[(*frame.key, event.value)] = Place(event.start_mark.line + 1)
        frame.pending = event.value

    def _value(self, event: Any) -> Any:
        tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)
        if tag not in _SCALAR_TAGS:
            return event.value  # a date, a merge key, base64: text, as far as the registry is concerned
        try:
            value = self.loader.construct_object(yaml.ScalarNode(tag, event.value))
        except ValueError:
            value = math.nan  # an integer of thousands of digits, or `0b` alone
        if isinstance(value, int | float) and not math.isfinite(value):
            raise self._refuse(event, f"{event.value[:40]} is not a number that can be used", "write a finite number")
        return value

    def _open(self, event: Any) -> None:
        self._plain(event)
        if len(self.frames) >= MAX_DEPTH:
            raise self._refuse(event, f"nested deeper than {MAX_DEPTH} levels", "a registry is five levels deep")
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.container, dict) and frame.pending is None:
            raise self._refuse(event, "a mapping or list used as a key", "keys are plain words")
        container: dict[str, Any] | list[Any] = {} if isinstance(event, yaml.MappingStartEvent) else []
        key = self._put(container, event)
        self.document.places[key].flow = bool(event.flow_style)
        self.frames.append(_Frame(container, key))

    def _close(self, event: Any) -> None:
        frame = self.frames.pop()
        place = self.document.places[frame.key]
        if place.flow:
            self.last_line = event.end_mark.line + 1
        place.end_line = self.last_line

    def _put(self, value: Any, event: Any) -> Key:
        """Store a value in the open container, and its place; return its key."""
        if len(self.document.places) > MAX_VALUES:
            raise self._refuse(event, f"more than {MAX_VALUES} values", "a registry holds rows, not data")
        line = event.start_mark.line + 1
        if not self.frames:
            self.root = value
            self.document.places[()] = Place(line)
            return ()
        frame = self.frames[-1]
        if isinstance(frame.container, list):
            key: Key = (*frame.key, len(frame.container))
            frame.container.append(value)
            self.document.places[key] = Place(line)
            return key
        assert frame.pending is not None
        key = (*frame.key, frame.pending)
        frame.container[frame.pending] = value
        frame.pending = None
        return key


def _row(key: Key) -> tuple[str, str] | None:
    return (str(key[0]), str(key[1])) if len(key) > 1 else None


def _inside(key: Key) -> str:
    return f" in {'.'.join(map(str, key))}" if key else ""


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "truth value", int: "number", float: "number"}.get(type(value), "value")
