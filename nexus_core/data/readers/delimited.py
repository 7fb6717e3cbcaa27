"""CSV (RFC 4180) and TSV (one line per row, no quoting). Every cell is text, as it stands in the file."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.records import Chunk, Context, Start
from nexus_core.data.text import WINDOW, decode_lines, windows
from nexus_core.errors import DataError


def read_csv(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Comma-separated, quoted cells may hold commas and line breaks."""
    return _read(blob, context, delimiter=",", quoting=csv.QUOTE_MINIMAL)


def read_tsv(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Tab-separated; a quotation mark is a character like any other."""
    return _read(blob, context, delimiter="\t", quoting=csv.QUOTE_NONE)


def _read(blob: Blob, context: Context, **dialect: Any) -> Iterator[Chunk]:
    limit = context.options.max_line_bytes
    if csv.field_size_limit() < limit:
        csv.field_size_limit(limit)  # process-wide, but it only ever grows: 128 KiB is less than one long document
    fed = [0]
    reader = csv.reader(_lines(blob, limit, fed), strict=True, **dialect)
    rows: list[dict[str, str]] = []
    lines: list[int] = []
    first = size = 0
    header: list[str] = []
    for cells in _cells(blob, reader):
        fed[0] = 0
        if not cells:
            continue
        if not header:
            header = _header(blob, cells)
            continue
        if len(cells) != len(header):
            raise DataError(
                f"{blob.name}:{reader.line_num}: {len(cells)} cells where the header has {len(header)}",
                "repair the row: quote cells that hold the separator, and give every row all its cells",
            )
        rows.append(dict(zip(header, cells, strict=True)))
        lines.append(reader.line_num)
        size += sum(map(len, cells))
        if size >= WINDOW:
            yield Chunk(blob.name, rows, first, size, lines=lines)
            first += len(rows)
            rows, lines, size = [], [], 0
    if rows:
        yield Chunk(blob.name, rows, first, size, lines=lines)


def _header(blob: Blob, cells: list[str]) -> list[str]:
    twice = sorted({cell for cell in cells if cells.count(cell) > 1})
    if twice:
        raise DataError(
            f"{blob.name}:1: the header names {', '.join(map(repr, twice))} twice", "give every column its own name"
        )
    return cells


def _cells(blob: Blob, reader: Any) -> Iterator[list[str]]:
    while True:
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{blob.name}:{reader.line_num}: not a valid table: {error}", "check the quotes around this line"
            ) from None
        if cells is None:
            return
        yield cells


def _lines(blob: Blob, limit: int, fed: list[int]) -> Iterator[str]:
    """The lines; `fed[0]` counts what one row has taken so far, as a quote that is never closed takes everything."""
    number = 0
    for window in windows(blob, Start(), limit, "a table"):
        for line in decode_lines(blob.name, window):
            number += 1
            if "\0" in line:
                raise DataError(
                    f"{blob.name}:{number}: a NUL character in a table",
                    "the file is damaged, or is UTF-16 without a byte order mark: convert it to UTF-8",
                )
            fed[0] += len(line)
            if fed[0] > limit:
                raise DataError(
                    f"{blob.name}:{number}: a row of more than {limit} bytes ends nowhere before this line",
                    "close the quotes; if such a row is right, raise LoaderOptions(max_line_bytes=...) from Python",
                )
            yield line + "\n"
