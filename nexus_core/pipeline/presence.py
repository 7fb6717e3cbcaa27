"""The teachers of the registry on this machine: loaded, or with the way to get them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_core.errors import ModelError
from nexus_core.registry import resolve_path
from nexus_core.registry.paths import how_to_get as how_to_get
from nexus_core.types import ModelSource

if TYPE_CHECKING:
    from nexus_core.plugins import Plugins
    from nexus_core.registry import TeacherRow
    from nexus_core.types import LoadOptions, Teacher


def load_teacher(plugins: Plugins, row: TeacherRow, options: LoadOptions | None = None) -> Teacher:
    """The teacher of a registry row; one that is not on this machine is an error with its reason."""
    presence = resolve_path(row)
    if presence.path is None:
        raise ModelError(f"teacher {row.id} is absent: {presence.reason}", how_to_get(row, presence.reason))
    return plugins.load_teacher(ModelSource(presence.path, row.id), options)
