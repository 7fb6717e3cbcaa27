"""`nexus distill`: teach the planned student from the cached signals."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN

if TYPE_CHECKING:
    from nexus_core.distill.report import DistillReport
    from nexus_core.distill.run import Order
    from nexus_core.student.files import Student

PATH = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--adapter", help="Teach this capability's adapter alone, on the student that the run has.")
@click.option("--resume", is_flag=True, help="Go on from the checkpoints instead of starting over.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="At most so many steps in each phase (the preset says how many)."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Threads that share a step (0: one for each core)."
)
@click.option("--device", default="cpu", show_default=True, help="Where to train: cpu or cuda.")
@click.option("--tokenizer", type=PATH, help="A tokenizer's directory, for a backbone with random weights.")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(as_json: bool, steps: int | None, tokenizer: Path | None, resume: bool, **options: Any) -> None:
    """Teach the planned student what its teachers know; no teacher is loaded. Training stops when the contracts are met.

    \b
    Examples:
      nexus distill --run runs/default
      nexus distill --run runs/default --adapter reasoning
      nexus distill --run runs/default --resume

    Exit status 3: a capability stayed below its contract on the profile split.
    """
    from nexus_core.cli.context import hold_run
    from nexus_core.distill.report import write_report
    from nexus_core.distill.run import STUDENT, Order
    from nexus_core.student.files import write_adapter, write_student

    order = Order(fresh=not resume, **options)
    hold_run(order.run)
    try:
        student, report = _distill(order, steps, tokenizer)
    except KeyboardInterrupt:
        click.echo("stopped; the same command with --resume goes on from here", err=True)
        raise
    path = order.run / STUDENT
    if order.adapter is None:
        write_student(path, student)
    else:
        write_adapter(path, student.model, order.adapter)
    write_report(order.run, report, alone=order.adapter is not None)
    print_json(report.as_json()) if as_json else _print(report)
    click.echo(f"written to {path}", err=as_json)
    if not report.met:
        click.echo("a contract was missed: plan more capacity, collect more signals, or allow more --steps", err=True)
        sys.exit(3)


def _distill(order: Order, steps: int | None, tokenizer: Path | None) -> tuple[Student, DistillReport]:
    from nexus_core.architect.sizes import sizes
    from nexus_core.cli.context import open_plugins, open_registry
    from nexus_core.distill import routing
    from nexus_core.distill.report import DistillReport
    from nexus_core.distill.run import check_device, new_student, renewed_student
    from nexus_core.distill.settings import read_teaching
    from nexus_core.pipeline.stages.distill import Lesson, route, teach
    from nexus_core.student.arch import ARCH, read_arch

    started = time.perf_counter()
    registry, arch = open_registry(), read_arch(order.run / ARCH)
    settings = read_teaching(arch.preset)
    if steps:
        settings = replace(settings, phases=tuple(replace(p, steps=min(p.steps, steps)) for p in settings.phases))
    check_device(order.device)
    if order.adapter is None:
        student = new_student(arch, registry, tokenizer, order.device)
    else:
        student = renewed_student(order, order.adapter, arch)

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)

    names = [a.capability for a in arch.adapters] if order.adapter is None else [order.adapter]
    taught, seconds = teach(Lesson(order, registry, open_plugins(None), settings, say), student, names)
    routed, begun = None, time.perf_counter()
    if order.adapter is None and (routed := route(arch.router, routing.RouterSettings(), order.seed)):
        student = replace(student, router=routed[0])
    seconds["router"] = round(time.perf_counter() - begun, 1)
    return student, DistillReport(tuple(taught), sizes(arch).parts, seconds, routed[1] if routed else None)


def _print(report: DistillReport) -> None:
    from nexus_core.distill.report import COLUMNS, router_lines

    print_table(COLUMNS, report.rows())
    if report.router:
        said, headers, rows = router_lines(report.router)
        click.echo(f"\n{said}")
        print_table(headers, rows)
        click.echo()
    total = sum(report.sizes.values())
    click.echo(f"{total:,} parameters: {', '.join(f'{name} {size:,}' for name, size in report.sizes.items())}")
    click.echo(", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items()))
