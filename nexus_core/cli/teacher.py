"""`nexus teacher`: teachers come into the registry, and are set aside in it with a reason."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from nexus_core.pipeline.teachers import Edit, RegistryFile

REGISTRY = click.option(
    "--registry",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The file to change; else $NEXUS_REGISTRY or ./registry.yaml, which starts as a copy of the one that ships.",
)
DRY = click.option("--dry-run", is_flag=True, help="Show the row, and change nothing.")
REASON = click.option(
    "--reason", required=True, help="Why. It stands in the registry, the plan, the report and bundles."
)


@click.group(name="teacher")
def command() -> None:
    """Add teachers to the registry, or set them aside in it. Their files are never touched.

    \b
    Examples:
      nexus teacher add models/sums-1b --capability reasoning --license Apache-2.0
      nexus teacher add --source acme/Sums-70B --capability reasoning
      nexus teacher drop acme-sums --reason "fails its own benchmark"
      nexus teacher merge acme-sums --into zoo-reasoning --reason "the same family"
    """


@command.command()
@click.argument("path_of", metavar="[PATH]", required=False, type=click.Path(path_type=Path))
@click.option("--source", help="Where it comes from (ORG/NAME). Without a PATH: it is not on this machine (yet).")
@click.option("--id", "row_id", help="Its id; else made of its name.")
@click.option("--name", help="Its name; else that of the source or the directory.")
@click.option("--parameters", help="Its size in words, such as 1.7B; else counted from its safetensors.")
@click.option("--category", help="What it is, in words; else what the plugins detect.")
@click.option("--best-feature", default="Not specified", help="What it is best at, in words.")
@click.option("--tower", help="Its primary tower; else that of its first capability or of its category.")
@click.option("--capability", "capabilities", multiple=True, help="What it teaches (may be given again).")
@click.option("--role", type=click.Choice(["teacher", "backbone", "interpretability"]), help="What else it is for.")
@click.option("--license", "licence", help="The name of its licence, which you have read.")
@REGISTRY
@DRY
def add(
    path_of: Path | None, path: Path | None, dry_run: bool, licence: str | None, row_id: str | None, **said: Any
) -> None:
    """Append a row for the teacher at PATH, whose category the plugins detect. Comments and hand edits stay.

    Example: nexus teacher add models/sums-1b --capability reasoning --license Apache-2.0
    """
    from nexus_core.cli.context import open_plugins
    from nexus_core.pipeline.teachers import NewTeacher

    given = {name: value for name, value in {**said, "license": licence, "id": row_id}.items() if value is not None}
    edit = _file(path, dry_run).add(NewTeacher(path=path_of, **given), open_plugins())
    row = edit.row
    if edit.seen:
        click.echo(f"detected: {edit.seen}")
    _say_row(edit, f"{'would add' if dry_run else 'added'} {row.id}: tower {row.tower}", dry_run)
    click.echo(f"capabilities: {', '.join(row.capabilities) or f'none, its role is {row.role}'}")
    if dry_run:
        return
    for line in _next(edit):
        click.echo(f"next: {line}")


@command.command()
@click.argument("teacher", metavar="ID")
@REASON
@REGISTRY
@DRY
def drop(teacher: str, reason: str, path: Path | None, dry_run: bool) -> None:
    """Say in the row of teacher ID that it teaches nothing any more, and why.

    Example: nexus teacher drop acme-sums --reason "fails its own benchmark"
    """
    from nexus_core.registry import Fate

    edit = _file(path, dry_run).set_aside(teacher, Fate("drop", reason))
    _say_fate(edit, dry_run)


@command.command()
@click.argument("teacher", metavar="ID")
@click.option("--into", required=True, metavar="OTHER", help="The teacher that carries the same capabilities.")
@REASON
@REGISTRY
@DRY
def merge(teacher: str, into: str, reason: str, path: Path | None, dry_run: bool) -> None:
    """Say in the row of teacher ID that what it knows is taught by another one, and why.

    Example: nexus teacher merge acme-sums --into zoo-reasoning --reason "the same family"
    """
    from nexus_core.registry import Fate

    edit = _file(path, dry_run).set_aside(teacher, Fate("merge", reason, into))
    _say_fate(edit, dry_run)


def _file(path: Path | None, dry_run: bool) -> RegistryFile:
    from nexus_core.discovery import discover, registry_fragments
    from nexus_core.pipeline.teachers import RegistryFile

    target = path or Path(os.environ.get("NEXUS_REGISTRY") or "registry.yaml")
    return RegistryFile(target, registry_fragments(discover()), dry_run)


def _say_row(edit: Edit, what: str, dry_run: bool) -> None:
    where = "" if dry_run else f" ({edit.row.origin.path}:{edit.row.origin.line})"
    click.echo(f"{what}{where}")


def _say_fate(edit: Edit, dry_run: bool) -> None:
    _say_row(edit, f"{'would say: ' if dry_run else ''}{edit.row.id} is {edit.row.fate}", dry_run)
    for name in edit.orphans:
        click.echo(f"nobody is left to teach {name}: the next plan has no adapter for it", err=True)
    if not dry_run:
        click.echo("its files stay where they are; to have it back, take `fate:` out of its row")


def _next(edit: Edit) -> list[str]:
    """What is still missing, and the command that uses the new teacher."""
    row, lines = edit.row, []
    if row.path is None:
        lines.append(f"get {row.source}, and set `path:` at {row.origin.path}:{row.origin.line}")
    if row.license.startswith("unknown"):
        lines.append(f"read its licence, and write its name as `license:` at {row.origin.path}:{row.origin.line}")
    lines += [f"nexus profile --teacher {row.id} --capability {name}" for name in row.capabilities]
    if row.role == "backbone":
        lines.append(f"nexus architect --backbone {row.id}")
    return lines
