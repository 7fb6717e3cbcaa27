"""How commands print: a rich table on a terminal, aligned plain lines elsewhere, one JSON document when asked."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click


def print_json(value: Any) -> None:
    click.echo(json.dumps(value, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """The last column may be long: it wraps on a terminal and runs on in a pipe, where a line is a record."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
        for header in headers:
            table.add_column(header, overflow="fold")  # an id that is cut cannot be copied into the next command
        for row in rows:
            table.add_row(*(escape(cell) for cell in row))
        Console().print(table)
        return
    if title:
        click.echo(title)
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]
    for row in [headers, *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
