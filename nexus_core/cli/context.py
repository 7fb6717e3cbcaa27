"""What most commands open first: the registry with the plugins' rows in it, and the plugins that were selected."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nexus_core.discovery import discover, registry_fragments
from nexus_core.pipeline.presence import load_teacher as load_teacher  # commands and tests find it here
from nexus_core.plugins import Membership, Plugins, from_names

if TYPE_CHECKING:
    from nexus_core.registry import Registry
    from nexus_core.types import Teacher


def hold_run(run: Path, create: bool = False) -> None:
    """Until this command ends no other one writes into the run: two at once would each undo what the other does.

    Where there is no run there is nothing to hold, unless this command is about to `create` it.
    """
    from nexus_core.atomic import make_directory
    from nexus_core.lock import ProcessLock

    if create:
        make_directory(run)
    elif not run.is_dir():
        return
    ctx = click.get_current_context()
    ctx.with_resource(ProcessLock(run / ".lock", f"the run {run}", f"nexus {ctx.info_name}"))


def open_registry(named: Collection[str] = ()) -> Registry:
    """registry.yaml (see `find_registry`), with the rows that installed plugins bring.

    A plugin's faulty rows are left out and said on stderr, unless the plugin was `named`, or in strict mode.
    """
    from nexus_core.registry import find_registry, load_tolerant
    from nexus_core.registry.problems import raise_first

    fragments = registry_fragments(discover())
    registry, problems = load_tolerant(find_registry(), fragments)
    wanted = {path for name, path in fragments if name in named or os.environ.get("NEXUS_STRICT") == "1"}
    raise_first([problem for problem in problems if problem.path in wanted])
    for problem in problems:
        click.echo(f"left out: {problem}", err=True)
    return registry


def open_plugins(names: str | None = None) -> Plugins:
    """The plugins of `--plugins names`, else of $NEXUS_PLUGINS, else all. The registry is read only to select by name."""
    text = os.environ.get("NEXUS_PLUGINS") if names is None else names
    chosen = from_names(text)
    if not chosen:
        return Plugins(chosen)
    registry = open_registry(chosen)
    membership = Membership(
        capabilities={row.id: row.tower for row in registry.capabilities.values()},
        teachers={row.id: row.tower or "" for row in registry.teachers.values()},
    )
    return Plugins(chosen, membership)


def find_teacher(plugins: Plugins, target: str) -> Teacher:
    """A directory or file of that name, or else the registry's row."""
    from nexus_core.errors import ModelError
    from nexus_core.types import ModelSource

    path = Path(target)
    if path.exists():
        return plugins.load_teacher(ModelSource(path))
    if path.parent != Path() or path.is_absolute():
        raise ModelError(f"{target}: no such file or directory", "check the path")
    return load_teacher(plugins, open_registry().teacher(target))
