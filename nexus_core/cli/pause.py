"""`nexus pause` and `nexus resume`: hold a `nexus run` that is at work in another terminal, and let it go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

PATIENCE = 60.0  # seconds; a pause begins between two operations, and one on a large teacher can take so long


def _options(function: Callable[..., Any]) -> Callable[..., Any]:
    wait = click.option(
        "--wait",
        "patience",
        type=click.FloatRange(min=0, min_open=True),
        default=PATIENCE,
        show_default=True,
        help="Seconds to wait for its answer.",
    )
    where = click.option(
        "--run",
        type=click.Path(path_type=Path),
        help="The run's directory. Without: the one that .pipeline_state.json names, else runs/default.",
    )
    return where(wait(function))


@click.command()
@_options
def pause(run: Path | None, patience: float) -> None:
    """Hold a run until `nexus resume`. It keeps its memory and its lock, and its children stand still, too.

    \b
    Examples:
      nexus pause
      nexus pause --run runs/standard
    """
    from nexus_core.pipeline import remote

    click.echo(remote.pause(run or _sticky(), patience))


@click.command()
@_options
def resume(run: Path | None, patience: float) -> None:
    """Let a run go on that `nexus pause` holds. (A run that has ended goes on with: nexus run)

    \b
    Examples:
      nexus resume
      nexus resume --run runs/standard
    """
    from nexus_core.pipeline import remote

    click.echo(remote.resume(run or _sticky(), patience))


def _sticky() -> Path:
    from nexus_core.pipeline.options import RUN
    from nexus_core.state import read_state

    return Path(read_state().get("run", RUN))
