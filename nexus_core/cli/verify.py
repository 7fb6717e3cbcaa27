"""`nexus verify`: the student alone, measured against its contracts, with its teachers out of reach."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN

if TYPE_CHECKING:
    from nexus_core.gate import GateOrder, Report

PATH = click.Path(path_type=Path, exists=True)
COLUMNS = (
    "capability",
    "metric",
    "teacher",
    "student",
    "ratio",
    "95 % interval",
    "n",
    "contract",
    "no adapter",
    "verdict",
)


@click.command()
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--subject", type=PATH, help="Another student or a bundle of this run, instead of RUN/student.")
@click.option("--capability", "capabilities", multiple=True, help="Ask this one only (may be given again).")
@click.option("--samples", type=click.IntRange(min=1), help="Verify samples of each (the registry says how many).")
@click.option(
    "--attempts",
    type=click.IntRange(min=0),
    help="Returns to stage 4 for a failing adapter (the registry says how many).",
)
@click.option("--device", default="cpu", show_default=True, help="Where the student answers: cpu or cuda.")
@click.option("--check", is_flag=True, help="Ask nothing: check the report that is there, and what it is about.")
@click.option("--delete-teachers", is_flag=True, help="After a pass, delete the teachers in RUN/teachers for good.")
@click.option(
    "--delete",
    "named",
    type=PATH,
    multiple=True,
    help="With --delete-teachers: this teacher's directory too, wherever it lies.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Where the report goes (RUN/verify_report.json)."
)
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON document instead of a table.")
def command(run: Path, subject: Path | None, check: bool, as_json: bool, **options: Any) -> None:
    """Ask the student what its teachers were asked, where it cannot reach them, and hold it to its contracts.

    \b
    Examples:
      nexus verify --run runs/default
      nexus verify --run runs/default --capability reasoning --samples 100
      nexus verify --run runs/default --check
      nexus verify --run runs/default --delete-teachers

    Exit status 0: the whole student passed. 3: a capability is below its contract, the student touched what is out of
    reach, or less was asked than the registry says, which is no verdict.
    """
    from nexus_core.distill.run import STUDENT
    from nexus_core.errors import UsageError
    from nexus_core.gate import REPORT

    if options["named"] and not options["delete_teachers"]:
        raise UsageError("--delete names what --delete-teachers deletes", "give both, or none")
    own = run / STUDENT
    asked = subject or own
    path = options["out"] or (run / REPORT if asked.resolve() == own.resolve() else None)
    order = _order(run, asked, options)
    problems: list[str] = []
    if check:
        report, problems = _checked(order, path or run / REPORT)
    else:
        _can_work(order, path)
        report = _verified(order, path, options)
    print_json(report.body) if as_json else print_report(report)
    for problem in problems:
        click.echo(f"not to be trusted: {problem}", err=True)
    if path is not None and not check:
        click.echo(f"written to {path}", err=as_json)
    if problems or not report.passed:
        sys.exit(3)
    if options["delete_teachers"]:
        _delete(order, report, options["named"])


def _order(run: Path, subject: Path, options: dict[str, Any]) -> GateOrder:
    from nexus_core.cli.context import open_plugins, open_registry
    from nexus_core.errors import DataError
    from nexus_core.gate import GateOrder

    if not run.is_dir():
        raise DataError(f"there is no run in {run}", "name the directory of a run: --run DIRECTORY")
    started = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)

    return GateOrder(
        subject,
        run,
        open_registry(),
        open_plugins(),
        options["capabilities"],
        options["samples"],
        options["device"],
        say,
    )


def _can_work(order: GateOrder, path: Path | None) -> None:
    """Before any teacher is moved: a slip in the command must not end in a verdict."""
    from nexus_core.atomic import check_writable
    from nexus_core.distill.run import check_device

    if path is not None:
        check_writable(path)
    check_device(order.device)


def _verified(order: GateOrder, path: Path | None, options: dict[str, Any]) -> Report:
    from nexus_core.cli.context import hold_run
    from nexus_core.gate import write_report
    from nexus_core.pipeline.loop_back import can_go_back, verify_with_attempts

    hold_run(order.run)
    attempts = order.registry.gate.attempts if options["attempts"] is None else options["attempts"]
    report = verify_with_attempts(order, attempts if can_go_back(order.run, order.subject) else 0)
    if path is not None:
        write_report(path, report)
    return report


def _checked(order: GateOrder, path: Path) -> tuple[Report, list[str]]:
    """The report that is there, and everything that is wrong with it."""
    from nexus_core.bundle.digest import student_digest
    from nexus_core.gate import check_report, read_report, restore

    restore(order.run)
    report = read_report(path)
    return report, check_report(report, order.registry, student_digest(order.subject))


def print_report(report: Report) -> None:
    print_table(COLUMNS, [_row(name, report) for name in report.capabilities])
    for reason in report.body["reasons"]:
        click.echo(f"{report.verdict}: {reason}", err=True)
    for attempt in report.body["attempts"]:
        taught = ", ".join(entry["capability"] for entry in attempt["adapters"])
        said = "; ".join(filter(None, [taught, attempt.get("failed")]))
        click.echo(f"return {attempt['attempt']} to stage {attempt.get('stage', 4)}: {said}")
    from nexus_core.gate.verdict import INCOMPLETE

    moved = [name for name, teacher in report.body["isolation"]["teachers"].items() if teacher["moved"]]
    click.echo(f"out of reach: {', '.join(moved) or 'no teacher was on this machine'}")
    click.echo(f"verdict: {report.verdict}")
    if report.verdict == INCOMPLETE:
        click.echo("what was asked passed; this is no verdict on the student, and no bundle comes of it", err=True)


def _row(name: str, report: Report) -> list[str]:
    row = report.capabilities[name]
    control = report.body["controls"].get(name)
    interval = "-" if row["ci95"] is None else f"{row['ci95'][0]:.3f} to {row['ci95'][1]:.3f}"
    return [
        name,
        row["metric"] or "-",
        *("-" if row[key] is None else f"{row[key]:.3f}" for key in ("teacher_score", "student_score", "ratio")),
        interval,
        str(row["n"]),
        _contract(row),
        f"{control['backbone']['score']:.3f}" if control else "-",
        row["verdict"],
    ]


def _contract(row: Mapping[str, Any]) -> str:
    sign = ">=" if row["direction"] == "higher" else "<="
    parts = [f"{sign} {row['retain_fraction']:g} x teacher"] if row["retain_fraction"] is not None else []
    parts += [f">= {row['minimum']:g}"] if row["minimum"] is not None else []
    return ", ".join(parts) or "-"


def _delete(order: GateOrder, report: Report, named: tuple[Path, ...]) -> None:
    from nexus_core.gate.removal import REPRO, Removal, delete_teachers

    removal = Removal(order.run, order.subject, order.registry, report, named)
    for fate in delete_teachers(removal, shlex.join(["nexus", *sys.argv[1:]])):
        click.echo(f"{fate.teacher}: {'deleted' if fate.deleted else 'kept'} ({fate.reason})", err=True)
    click.echo(f"how to make it again: {order.run / REPRO}", err=True)
