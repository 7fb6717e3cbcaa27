"""Plain text: every line that is not blank is an input, without a target."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.records import Chunk, Context
from nexus_core.data.text import decode_lines, windows


def read_txt(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Lines in windows; the file can be entered at any window."""
    row, line = context.start.row, context.start.line
    for window in windows(blob, context.start, context.options.max_line_bytes, "text"):
        texts = decode_lines(blob.name, window)
        kept = [(n, text.rstrip("\r")) for n, text in enumerate(texts, line + 1) if text.strip()]
        rows = [{"input": text, "target": ""} for _, text in kept]
        offset = window.offset if window.seekable else 0
        yield Chunk(blob.name, rows, row, window.size, offset, line, [n for n, _ in kept], mapped=True)
        row += len(rows)
        line += len(window.lines)
