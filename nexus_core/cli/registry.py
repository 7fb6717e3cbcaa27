"""`nexus registry`: what is promised, of whom it is learnt, and whether the file that says so is sound."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nexus_core.registry import Problem, Registry

_REGISTRY_HELP = "The registry.yaml to use; else $NEXUS_REGISTRY, ./registry.yaml, or the one that ships with Nexus."


@click.group(name="registry")
def command() -> None:
    """Teachers, capabilities and their contracts.

    \b
    Examples:
      nexus registry list
      nexus registry check registry.yaml
      nexus registry import teachers.csv --dry-run
    """


@command.command(name="list")
@click.option("--registry", "path", type=click.Path(path_type=Path), help=_REGISTRY_HELP)
@click.option("--json", "as_json", is_flag=True, help="Machine-readable output.")
def list_command(path: Path | None, as_json: bool) -> None:
    """Show every teacher (present, or absent and why) and every capability with its contract.

    Rows that installed plugins ship are included. Example: nexus registry list --json
    """
    from nexus_core.discovery import discover, registry_fragments
    from nexus_core.registry import load_tolerant

    registry, problems = load_tolerant(path, registry_fragments(discover()))
    teachers = [_teacher(registry, row_id) for row_id in registry.teachers]
    capabilities = [_capability(registry, row_id) for row_id in registry.capabilities]
    if as_json:
        found = {"registry": str(registry.path), "teachers": teachers, "capabilities": capabilities}
        print_json({**found, "problems": [str(problem) for problem in problems]})
        return
    absent = sum(not teacher["present"] for teacher in teachers)
    _table(f"Teachers ({len(teachers)}, of which {absent} absent)", teachers, ["id", "tower", "capabilities", "state"])
    columns = ["id", "tier", "tower", "metric", "contract", "rank_cap", "teachers"]
    _table(f"Capabilities ({len(capabilities)})", capabilities, columns)
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)


@command.command(name="check")
@click.argument("path", required=False, type=click.Path(path_type=Path))
def check_command(path: Path | None) -> None:
    """Check a registry.yaml, and the rows that installed plugins ship; print every problem with its line.

    Exits with 1 when the registry has a problem. A plugin's rows that do not fit it are left out and named, which is
    an error only with NEXUS_STRICT=1. Notes (a capability that nobody provides) are not problems.
    Example: nexus registry check
    """
    from nexus_core.discovery import discover, registry_fragments
    from nexus_core.registry import check_own, find_registry, load_tolerant

    found = find_registry(path)
    fragments = registry_fragments(discover())
    problems, left_out = check_own(found, fragments)
    _say(problems)
    if problems:
        click.echo(f"{found}: {_count(problems)}", err=True)
        raise click.exceptions.Exit(1)
    registry, _ = load_tolerant(found, fragments)
    for note in _notes(registry):
        click.echo(f"note: {note}")
    _say(left_out, "left out: ")
    click.echo(f"{found}: sound ({len(registry.teachers)} teachers, {len(registry.capabilities)} capabilities)")
    if left_out and os.environ.get("NEXUS_STRICT") == "1":
        raise click.exceptions.Exit(1)


@command.command(name="import")
@click.argument("csv_path", metavar="CSV", type=click.Path(path_type=Path))
@click.option(
    "--registry", "path", type=click.Path(path_type=Path), help="The file to add to (default: ./registry.yaml)."
)
@click.option("--dry-run", is_flag=True, help="Show the rows that would be added, and change nothing.")
def import_command(csv_path: Path, path: Path | None, dry_run: bool) -> None:
    """Add a row for each teacher of a CSV that the registry does not have; hand edits stay.

    The header is "Model Name","Parameters","Category","Best Feature" (or ModelName,... without spaces).
    A registry that does not exist yet starts as a copy of the one that ships with Nexus.
    Example: nexus registry import teachers.csv --dry-run
    """
    from nexus_core.registry.import_csv import import_csv

    target = path or Path(os.environ.get("NEXUS_REGISTRY") or "registry.yaml")
    report = import_csv(csv_path, target, dry_run)
    if dry_run:
        click.echo(report.text, nl=False)
    verb = "would add" if dry_run else "added"
    click.echo(f"{report.registry}: {verb} {len(report.added)}, already there {len(report.kept)}")
    for edit in report.edited:
        click.echo(f"kept your edit: {edit}")
    for row in report.unmapped:
        click.echo(f"not mapped: {row}")
    if report.unmapped:
        click.echo("give the rows that are not mapped a tower and capabilities, and remove `unmapped: true`")


def _teacher(registry: Registry, row_id: str) -> dict[str, Any]:
    from nexus_core.registry import resolve_path

    row = registry.teachers[row_id]
    presence = resolve_path(row)
    return {
        "id": row.id,
        "name": row.name,
        "parameters": row.parameters,
        "category": row.category,
        "best_feature": row.best_feature,
        "source": row.source,
        "tower": row.tower,
        "capabilities": list(row.capabilities),
        "present": presence.present,
        "path": str(presence.path) if presence.path else None,
        "state": str(row.fate or ("present" if presence.present else f"absent: {presence.reason}")),
        "fate": None if row.fate is None else asdict(row.fate),
        "license": row.license,
        "unmapped": row.unmapped,
        "origin": f"{row.origin.path}:{row.origin.line}",
    }


def _capability(registry: Registry, row_id: str) -> dict[str, Any]:
    row = registry.capabilities[row_id]
    contract = registry.contract(row_id)
    sign = ">=" if contract.direction == "higher" else "<="
    relative = [f"{sign} {contract.retain_fraction} x {contract.relative_to}"] if contract.retain_fraction else []
    absolute = [f"{sign} {contract.minimum}"] if contract.minimum is not None else []
    return {
        "id": row.id,
        "tier": row.tier,
        "tower": row.tower,
        "isolated": row.isolated,
        "benchmark": contract.benchmark,
        "metric": contract.metric,
        "direction": contract.direction.value,
        "retain_fraction": contract.retain_fraction,
        "minimum": contract.minimum,
        "relative_to": contract.relative_to,
        "contract": " and ".join(relative + absolute),
        "rank_cap": contract.rank_cap,
        "teachers": [teacher.id for teacher in registry.teachers_of(row_id) if teacher.fate is None],
        "origin": f"{row.origin.path}:{row.origin.line}",
    }


def _notes(registry: Registry) -> list[str]:
    """What is sound and still worth knowing, from packaging metadata alone."""
    from nexus_core.discovery import discover
    from nexus_core.types import Kind

    plugins = {ref.name.replace("-", "_") for ref in discover() if ref.kind is Kind.CAPABILITY}
    notes = [
        f"{row.id}: no installed plugin of this name provides it ({row.origin.path}:{row.origin.line})"
        for row in registry.capabilities.values()
        if not plugins & {row.id, *row.aliases}
    ]
    known = {name for row in registry.capabilities.values() for name in (row.id, *row.aliases)}
    notes += [f"plugin {name}: no row of this name, so nothing is promised of it" for name in sorted(plugins - known)]
    unmapped = [row for row in registry.teachers.values() if row.unmapped]
    notes += [f"{row.id}: not mapped to a tower ({row.origin.path}:{row.origin.line})" for row in unmapped]
    return notes


def _say(problems: Sequence[Problem], prefix: str = "") -> None:
    for problem in problems:
        click.echo(f"{prefix}{problem}")
        if problem.hint:
            click.echo(f"  hint: {problem.hint}")


def _count(problems: Sequence[Problem]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"


def _cell(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(title: str, rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    print_table(columns, [[_cell(row[column]) for column in columns] for row in rows], title)
    click.echo()
