"""`nexus eval`: score a teacher, or a student, on a capability."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.atomic import write_atomic
from nexus_core.cli.output import print_table

if TYPE_CHECKING:
    from nexus_core.evaluation import Answerer, Answers, Evaluation, Progress
    from nexus_core.plugins import Plugins
    from nexus_core.types import CapabilityMetric, SampleRequest


@click.command()
@click.argument("targets", nargs=-1, required=True)
@click.option(
    "--capability", "capabilities", multiple=True, required=True, help="What to measure; may be given more than once."
)
@click.option(
    "--samples", type=click.IntRange(min=1), default=200, show_default=True, help="How many samples, at most."
)
@click.option(
    "--data", help="A file or directory of yours, or a benchmark that the capability knows (gsm8k, humaneval ...)."
)
@click.option("--split", type=click.Choice(["train", "profile", "verify"]), default="verify", show_default=True)
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--batch-size", type=click.IntRange(min=1), help="Answers generated together.")
@click.option("--baselines", is_flag=True, help="Also score the capability's baselines that need no model.")
@click.option(
    "--outputs",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write prompt, target, output and score as JSONL.",
)
@click.option("--plugins", "names", help="Use only these plugins (comma-separated).")
@click.option("--json", "as_json", is_flag=True, help="One JSON line per target and capability.")
def command(targets: tuple[str, ...], capabilities: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Score TARGETS (registry ids, or directories of teachers and students) on a capability, with n and a 95 % interval.

    \b
    Examples:
      nexus eval zoo-reasoning --capability reasoning
      nexus eval zoo-reasoning zoo-code --capability reasoning --capability code --baselines
      nexus eval zoo-reasoning runs/default/student --capability reasoning --samples 500
      nexus eval ./my-model --capability math --data gsm8k --samples 100 --json
    """
    from nexus_core.cli.context import open_plugins
    from nexus_core.types import SampleRequest, Split

    _check_writable(options["outputs"])
    plugins = open_plugins(options["names"])
    metrics = [plugins.capability_metric(name) for name in capabilities]
    request = SampleRequest(Split(options["split"]), options["samples"], options["seed"], options["data"])
    rows: list[Evaluation] = []
    lines: list[str] = []
    for row, answers in _rows(plugins, targets, metrics, request, options):
        rows.append(row)
        lines += _lines(row, answers)
        if as_json:
            click.echo(json.dumps({**asdict(row), "ci95": list(row.ci95)}))
    if not as_json:
        headers = ["target", "capability", "data", "metric", "score", "95 % interval", "n", "seconds"]
        print_table(headers, [_cells(row) for row in rows])
    if options["outputs"]:
        write_atomic(options["outputs"], "".join(lines).encode())


def _check_writable(path: Path | None) -> None:
    """Before the work, not after it."""
    from nexus_core.errors import UsageError

    if path is not None and not (path.parent.is_dir() and os.access(path.parent, os.W_OK)):
        raise UsageError(
            f"--outputs {path}: {path.parent} is not a directory that can be written to", "create it first"
        )


def _rows(
    plugins: Plugins,
    targets: Sequence[str],
    metrics: Sequence[CapabilityMetric],
    request: SampleRequest,
    options: dict[str, Any],
) -> Iterator[tuple[Evaluation, Answers]]:
    """One row as soon as it is measured: targets first, one in memory at a time, then the baselines."""
    for target in targets:
        answerer_for = _answerers(plugins, target)
        for metric in metrics:
            yield _evaluate(target, answerer_for(metric.name), metric, request, options["batch_size"])
    if options["baselines"]:
        for metric in metrics:
            yield from _baselines(metric, request)


def _answerers(plugins: Plugins, target: str) -> Callable[[str], Answerer]:
    """Who answers for a capability: the one teacher, or a student with that capability's adapter."""
    from nexus_core.cli.context import find_teacher
    from nexus_core.student.arch import ARCH

    if not (Path(target) / ARCH).is_file():
        teacher: Any = find_teacher(plugins, target)
        return lambda capability: teacher
    from nexus_core.student.answer import StudentAnswerer
    from nexus_core.student.files import read_student

    student = read_student(Path(target))
    return lambda capability: StudentAnswerer(student.model, student.tokenizer, capability, allow_isolated=True)


def _cells(row: Evaluation) -> list[str]:
    low, high = row.ci95
    measured = [f"{row.score:.3f}", f"{low:.3f} to {high:.3f}", str(row.n), f"{row.seconds:.1f}"]
    return [row.target, row.capability, row.data, f"{row.metric} ({row.direction})", *measured]


def _evaluate(
    target: str, answerer: Answerer, metric: CapabilityMetric, request: SampleRequest, batch_size: int | None
) -> tuple[Evaluation, Answers]:
    from nexus_core.evaluation import evaluate

    cut = getattr(answerer, "truncated", 0)
    with _progress(f"{target} on {metric.name}") as progress:
        row, answers = evaluate(target, answerer, metric, request, batch_size, progress)
    if longer := getattr(answerer, "truncated", 0) - cut:
        click.echo(
            f"note: {longer} of {row.n} prompts are longer than the context of {target} and lost their beginning",
            err=True,
        )
    return row, answers


def _baselines(metric: CapabilityMetric, request: SampleRequest) -> Iterator[tuple[Evaluation, Answers]]:
    from nexus_core.evaluation import Answers, draw, summarise

    samples = draw(metric, request)
    for name, outputs in metric.baselines(request).items():
        answers = Answers(samples, outputs, metric.score_all(samples, outputs))
        yield summarise(f"baseline: {name}", metric, request, answers, 0.0), answers


def _lines(row: Evaluation, answers: Answers) -> Iterator[str]:
    for sample, output, score in zip(answers.samples, answers.outputs, answers.scores, strict=True):
        line = {"target": row.target, "capability": row.capability, "id": sample.id, "prompt": sample.prompt}
        yield json.dumps({**line, "reference": sample.target, "output": str(output), "score": score}) + "\n"


@contextmanager
def _progress(title: str) -> Iterator[Progress]:
    """A live bar on a terminal; elsewhere a line whenever five seconds have passed."""
    import sys
    import time

    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress as Bar

        with Bar(console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    said = time.monotonic()

    def line(done: int, total: int) -> None:
        nonlocal said
        if time.monotonic() - said >= 5:
            said = time.monotonic()
            click.echo(f"{title}: {done} of {total}", err=True)

    yield line
