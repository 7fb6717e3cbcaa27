"""JSON Lines: one object per line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.optional import need
from nexus_core.data.records import Chunk, Context
from nexus_core.data.text import Window, check_utf8, windows
from nexus_core.errors import DataError


def read_jsonl(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Lines in windows; the file can be entered at any window."""
    orjson = need("orjson", "read JSON")
    loads, broken = orjson.loads, orjson.JSONDecodeError
    row, line = context.start.row, context.start.line
    for window in windows(blob, context.start, context.options.max_line_bytes, "JSON lines"):
        lines: Sequence[int] = range(line + 1, line + 1 + len(window.lines))
        try:
            rows = list(map(loads, window.lines))
        except broken:
            rows, lines = _one_by_one(blob, window, line, loads)
        offset = window.offset if window.seekable else 0
        yield Chunk(blob.name, rows, row, window.size, offset, line, lines)
        row += len(rows)
        line += len(window.lines)


def _one_by_one(blob: Blob, window: Window, line: int, loads: Callable[[bytes], Any]) -> tuple[list[Any], list[int]]:
    """The rows without the blank lines, or the error of the first broken one."""
    rows, lines, offset = [], [], window.offset
    for number, text in enumerate(window.lines, line + 1):
        if text.strip():
            try:
                rows.append(loads(text))
            except ValueError as error:
                check_utf8(blob.name, text, offset)
                raise DataError(
                    f"{blob.name}:{number}: not JSON: {error}", "every line must be one complete JSON object"
                ) from None
            lines.append(number)
        offset += len(text) + 1
    return rows, lines
