"""A teacher is used only where its row allows that: by its licence, and as long as it is not set aside."""

from __future__ import annotations

from nexus_core.errors import NexusError
from nexus_core.registry.model import TeacherRow


def refuse_use(row: TeacherRow, done: str = "profiled") -> None:
    """A plan that was made before a teacher was set aside must not go on using it in silence."""
    if row.fate is not None:
        raise NexusError(
            f"teacher {row.id} is not {done}: it is {row.fate} ({row.origin.path}:{row.origin.line})",
            "plan without it (nexus architect), or take `fate:` out of its row",
        )
    refuse_licence(row, done)


def refuse_licence(row: TeacherRow, done: str = "profiled") -> None:
    """Activations and outputs of a teacher are used; a licence that forbids it, or that nobody has read, stops it."""
    if row.license.startswith(("unknown", "forbidden")):
        raise NexusError(
            f'teacher {row.id} is not {done}: its licence is "{row.license}" ({row.origin.path}:{row.origin.line})',
            "read the licence; if it allows the use of activations, write its name as `license:` there",
        )
