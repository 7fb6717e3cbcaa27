"""`nexus plugins`, `nexus plugins new`, `nexus plugins check`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from nexus_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nexus_core.discovery import PluginStatus


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """List the installed plugins, and why any of them is quarantined.

    \b
    Examples:
      nexus plugins
      nexus plugins --json
      NEXUS_PLUGINS=text,reasoning nexus plugins
    """
    if ctx.invoked_subcommand is None:
        from nexus_core.cli.context import open_plugins

        statuses = open_plugins().status()
        _list(statuses, as_json)
        if os.environ.get("NEXUS_STRICT") == "1" and not all(status.ok for status in statuses):
            sys.exit(1)


def _list(statuses: list[PluginStatus], as_json: bool) -> None:
    if as_json:
        print_json(
            [
                {
                    "kind": s.ref.kind.value,
                    "name": s.ref.name,
                    "distribution": s.ref.distribution,
                    "version": s.ref.version,
                    "hooks": list(s.hooks),
                    "status": "ok" if s.ok else "quarantined",
                    "reason": s.reason,
                }
                for s in statuses
            ]
        )
        return
    if not statuses:
        click.echo("no plugins: install some with pip, or write one: nexus plugins new teacher NAME")
        return
    rows = [
        [s.ref.kind.value, s.ref.name, s.ref.version, "ok" if s.ok else "quarantined", s.reason or ", ".join(s.hooks)]
        for s in statuses
    ]
    print_table(["kind", "name", "version", "status", "hooks, or the reason"], rows)


@command.command()
@click.argument("kind", type=click.Choice(["teacher", "capability", "tower"]))
@click.argument("name")
@click.option(
    "--into",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Parent directory; here by default.",
)
def new(kind: str, name: str, into: Path) -> None:
    """Write a plugin of KIND called NAME that installs, lists and passes its own checks.

    \b
    Example:
      nexus plugins new teacher mymodel
      pip install -e nexus-teacher-mymodel && nexus plugins check mymodel
    """
    from nexus_core.template import generate
    from nexus_core.types import Kind

    root = generate(Kind(kind), name, into)
    click.echo(f"wrote {root}")
    click.echo(f"next:  pip install -e {root} && nexus plugins check {name}")


def _complete_target(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from nexus_core.discovery import discover

    names = sorted({ref.name for ref in discover() if ref.name.startswith(incomplete)})
    return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="dir")]


@command.command()
@click.argument("targets", nargs=-1, shell_complete=_complete_target)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def check(targets: tuple[str, ...], as_json: bool) -> None:
    """Run the conformance checks on TARGETS: names of installed plugins, or directories of projects. All by default.

    \b
    Examples:
      nexus plugins check mymodel
      nexus plugins check ./nexus-teacher-mymodel
    """
    from nexus_core.discovery import discover
    from nexus_core.testing.run import CheckResult, find_subjects, run_checks

    subjects = [ref for target in targets for ref in find_subjects(target)] if targets else discover()
    results: list[CheckResult] = []
    for ref in subjects:
        click.echo(f"checking {ref.kind.value} {ref.name} ...", err=True)
        results += run_checks(ref)
    failed = sum(not result.ok for result in results)
    if as_json:
        print_json([{"plugin": r.plugin, "check": r.check, "ok": r.ok, "detail": r.detail} for r in results])
    else:
        print_table(
            ["plugin", "result", "check"],
            [[r.plugin, "ok" if r.ok else "FAILED", r.check + (f": {r.detail}" if r.detail else "")] for r in results],
        )
        click.echo(f"{len(results) - failed} passed, {failed} failed")
    if failed:
        sys.exit(1)
