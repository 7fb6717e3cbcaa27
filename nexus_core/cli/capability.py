"""`nexus capability update`: one capability is taught again, and one file of the bundle is replaced."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.bundle.manifest import SHARD_LIMIT
from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN
from nexus_core.pipeline.rollback import KEEP

if TYPE_CHECKING:
    from nexus_core.pipeline.capability import Updated

PATH = click.Path(path_type=Path)
COLUMNS = ("capability", "teacher", "student", "retained", "verdict")


@click.group(name="capability")
def command() -> None:
    """Keep the capabilities of a bundle up to date.

    \b
    Examples:
      nexus capability update reasoning --run runs/default
    """


@command.command()
@click.argument("capability", metavar="NAME")
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--bundle", type=PATH, help="The bundle to update (RUN/nexus_bundle_v1).")
@click.option("--out", type=PATH, help="Write the new bundle there, and leave the one that is there alone.")
@click.option("--anew", is_flag=True, help="Teach it from new weights instead of from those that it has.")
@click.option(
    "--steps", type=click.IntRange(min=1), help="At most so many steps in each phase (the preset says how many)."
)
@click.option("--seed", type=int, help="Of the training (else the student's own, one further with every update).")
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Threads that share a step (0: one for each core)."
)
@click.option("--device", default="cpu", show_default=True, help="Where it is taught and answers: cpu or cuda.")
@click.option(
    "--keep", type=click.IntRange(min=1), default=KEEP, show_default=True, help="How many versions of the bundle stay."
)
@click.option(
    "--shard-limit", type=click.IntRange(min=1), default=SHARD_LIMIT, help="As the bundle was built with (10 GB)."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def update(as_json: bool, **options: Any) -> None:
    """Teach NAME again, alone; hold the student to all of its contracts; replace this one adapter in the bundle.

    No other adapter, nor the backbone, changes by a byte. The bundle of before is kept: nexus bundle rollback.

    \b
    Examples:
      nexus capability update reasoning --run runs/default
      nexus capability update code --anew --out nexus_bundle_next

    Exit status 3: a contract is missed, and nothing was changed.
    """
    from nexus_core.cli.context import hold_run, open_plugins, open_registry
    from nexus_core.distill.run import check_device
    from nexus_core.errors import DataError
    from nexus_core.pipeline.capability import UpdateOrder
    from nexus_core.pipeline.capability import update as teach_again

    if not options["run"].is_dir():
        raise DataError(f"there is no run in {options['run']}", "name the directory of a run: --run DIRECTORY")
    check_device(options["device"])
    hold_run(options["run"])
    started = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)

    order = UpdateOrder(registry=open_registry(), plugins=open_plugins(), say=say, **options)
    try:
        done = teach_again(order)
    except KeyboardInterrupt:
        click.echo("stopped; the same command goes on from here", err=True)
        raise
    if as_json:
        print_json(_as_json(order.target, done))
    else:
        _print(order.target, done)


def _as_json(target: Path, done: Updated) -> dict[str, Any]:
    return {
        "bundle": str(target),
        "manifest_sha256": done.manifest.as_json()["sha256"],
        "changed": list(done.changed),
        "replaced": done.replaced,
        "capabilities": done.manifest.as_json()["capabilities"],
    }


def _print(target: Path, done: Updated) -> None:
    print_table(COLUMNS, [_row(name, row) for name, row in done.report.capabilities.items()])
    click.echo(f"\n{target}: changed are {', '.join(done.changed) or 'no files'} and the manifest")
    if done.replaced is not None:
        click.echo(f"what was there is version {done.replaced}: nexus bundle rollback {target} puts it back")


def _row(name: str, row: Any) -> list[str]:
    figures = ("-" if row[key] is None else f"{row[key]:.3f}" for key in ("teacher_score", "student_score", "ratio"))
    return [name, *figures, row["verdict"]]
