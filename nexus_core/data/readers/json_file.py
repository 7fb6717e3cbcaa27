"""JSON documents as streams: a list of objects, `{"data": [...]}`, one object, or one object after another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

from nexus_core.data.blob import Blob
from nexus_core.data.records import Chunk, Context
from nexus_core.data.text import WINDOW, pieces
from nexus_core.errors import DataError

SPACE = re.compile(r"[ \t\r\n]*")


def read_json(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Elements in groups of about one window of text; the document is never held as a whole."""
    first, rows, lines, size = 0, [], [], 0
    scanner = _Scanner(blob, context.options.max_line_bytes)
    for row, line, length in _rows(scanner):
        rows.append(row)
        lines.append(line)
        size += length
        if size >= WINDOW:
            yield Chunk(blob.name, rows, first, size, lines=lines)
            first += len(rows)
            rows, lines, size = [], [], 0
    if rows:
        yield Chunk(blob.name, rows, first, size, lines=lines)


def _rows(scan: _Scanner) -> Iterator[tuple[Any, int, int]]:
    """Each row with its line and its length."""
    while (char := scan.peek()) != "":
        if char == "[":
            yield from _elements(scan)
        elif char == "{":
            yield from _document(scan)
        else:
            scan.fail("a list or an object is expected")


def _elements(scan: _Scanner) -> Iterator[tuple[Any, int, int]]:
    scan.take("[")
    if scan.peek() == "]":
        scan.take("]")
        return
    while True:
        scan.peek()
        line = scan.line
        value, length = scan.value()
        yield value, line, length
        if scan.peek() == "]":
            scan.take("]")
            return
        scan.take(",")


def _document(scan: _Scanner) -> Iterator[tuple[Any, int, int]]:
    """One object: its `data` list where it has one, else the object itself as a row."""
    line, size = scan.line, 0
    members: dict[str, Any] = {}
    streamed = False
    scan.take("{")
    while scan.peek() != "}":
        key, length = scan.value()
        if not isinstance(key, str):
            scan.fail("a member's name is expected")
        scan.take(":")
        if key == "data" and scan.peek() == "[":
            yield from _elements(scan)
            streamed = True
        else:
            members[key], more = scan.value()
            size += length + more
        if size > scan.limit:
            scan.too_long()
        if scan.peek() == ",":
            scan.take(",")
            if scan.peek() == "}":
                scan.fail("a member's name is expected")
        elif scan.peek() != "}":
            scan.fail("a comma or the end of the object is expected")
    scan.take("}")
    if not streamed:
        yield members, line, size


class _Scanner:
    """A window on a JSON text that grows until the value at its start is complete."""

    def __init__(self, blob: Blob, limit: int) -> None:
        self.limit = limit
        self.line = 1
        self._blob = blob
        self._pieces = pieces(blob, "JSON")
        self._text = ""
        self._at = 0
        self._decode = json.JSONDecoder().raw_decode

    def _more(self) -> bool:
        """Make the window at least twice as long, so that a long element is scanned a few times and not hundreds."""
        parts = [self._text[self._at :]]
        self._at = 0
        wanted, got = max(WINDOW, len(parts[0])), 0
        for piece in self._pieces:
            parts.append(piece)
            got += len(piece)
            if got >= wanted:
                break
        self._text = "".join(parts)
        return got > 0

    def peek(self) -> str:
        """The next character that is not space, "" at the end."""
        while True:
            match = SPACE.match(self._text, self._at)
            assert match is not None
            self.line += self._text.count("\n", self._at, match.end())
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def take(self, char: str) -> None:
        """Go past `char`, which must come next."""
        if self.peek() != char:
            self.fail(f"{char!r} is expected")
        self._at += 1

    def value(self) -> tuple[Any, int]:
        """The value that comes next, and its length."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except RecursionError:
                self.fail("nested too deeply")
            except ValueError as error:
                self._grow_or_fail(error)
                continue
            length = end - self._at
            if length > self.limit:
                self.too_long()
            if end < len(self._text) or not self._more():  # a number at the very end may go on
                break
        self.line += self._text.count("\n", self._at, self._at + length)
        self._at += length
        return value, length

    def _grow_or_fail(self, error: ValueError) -> None:
        """More text when the value is only cut off, else the error."""
        if not isinstance(error, json.JSONDecodeError):
            self.fail(str(error))  # an integer of thousands of digits
        cut = error.pos > len(self._text) - 16 or error.msg.startswith("Unterminated string")
        lines = self._text.count("\n", self._at, error.pos)
        if cut and len(self._text) - self._at > 2 * self.limit:
            self.too_long()
        if not cut or not self._more():
            self.line += lines
            self.fail(error.msg)

    def fail(self, what: str) -> NoReturn:
        raise DataError(f"{self._blob.name}:{self.line}: not JSON: {what}", "check the file near this line")

    def too_long(self) -> NoReturn:
        raise DataError(
            f"{self._blob.name}:{self.line}: a JSON value longer than {self.limit} bytes",
            "write the data as JSON lines (or, from Python, raise LoaderOptions(max_line_bytes=...))",
        )
