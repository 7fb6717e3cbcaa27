"""`nexus report`: a run as one page for people, and as one document for programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from nexus_core.cli.output import print_json

MOST = 10


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path, file_okay=False), help="Where the two files go (RUN).")
@click.option(
    "--bundle", type=click.Path(path_type=Path, exists=True, file_okay=False), help="The bundle, if not in RUN."
)
@click.option(
    "--answers",
    type=click.IntRange(min=0, max=MOST),
    default=MOST,
    show_default=True,
    help="Answers of teacher and student side by side, of each capability; the student is asked now.",
)
@click.option("--json", "as_json", is_flag=True, help="Print report.json's content instead of a summary.")
def command(run: Path, out: Path | None, as_json: bool, **options: Any) -> None:
    """Write report.html and report.json of what RUN holds: verdict, retention, curves, reasons, answers, commands.

    A part that was not made says so, with the command that makes it. Nothing is trained, and no teacher is loaded.

    \b
    Examples:
      nexus report runs/default
      nexus report runs/default --out page --answers 0
    """
    from nexus_core.atomic import make_directory, write_atomic
    from nexus_core.cli.context import hold_run, open_plugins, open_registry
    from nexus_core.report.collect import ReportOrder, collect
    from nexus_core.report.page import render

    if out is None:
        hold_run(run)
    plugins = open_plugins() if options["answers"] else None
    found = collect(ReportOrder(run, open_registry(), plugins, **options))
    page = render(found)
    folder = out or run
    make_directory(folder)
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomic(folder / "report.json", text.encode())
    write_atomic(folder / "report.html", page.encode())
    print_json(found) if as_json else _print(found)
    click.echo(f"written to {folder / 'report.html'} and {folder / 'report.json'}", err=as_json)


def _print(found: dict[str, Any]) -> None:
    kept = found["retention"]
    click.echo(f"verdict: {kept.get('verdict', kept.get('absent'))}")
    if kept.get("rows"):
        worst = kept["rows"][0]
        ratio = "-" if worst["ratio"] is None else f"{worst['ratio']:.3f}"
        click.echo(f"worst capability: {worst['capability']}, {ratio} of its teacher's score")
    for name, part in found.items():
        if isinstance(part, dict) and "absent" in part:
            click.echo(f"not in it: {name}: {part['absent']}" + (f" ({part['command']})" if part["command"] else ""))
