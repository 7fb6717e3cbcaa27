"""What most commands open first: the registry with the plugins' rows in it, and the plugins that were selected."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nexus_core.discovery import discover, registry_fragments
from nexus_core.plugins import Membership, Plugins, from_names

if TYPE_CHECKING:
    from nexus_core.registry import Registry


def open_registry() -> Registry:
    """registry.yaml (see `find_registry`), with the rows that installed plugins bring."""
    from nexus_core.registry import find_registry, load_registry

    return load_registry(find_registry(), registry_fragments(discover()))


def open_plugins(names: str | None = None) -> Plugins:
    """The plugins of `--plugins names`, else of $NEXUS_PLUGINS, else all. The registry is read only to select by name."""
    if names is None and os.environ.get("NEXUS_PLUGINS") is None:
        return Plugins()
    registry = open_registry()
    membership = Membership(
        capabilities={row.id: row.tower for row in registry.capabilities.values()},
        teachers={row.id: row.tower or "" for row in registry.teachers.values()},
    )
    return Plugins(from_names(names), membership)
