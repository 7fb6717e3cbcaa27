"""A teacher is used only where its licence allows that."""

from __future__ import annotations

from nexus_core.errors import NexusError
from nexus_core.registry.model import TeacherRow


def refuse_licence(row: TeacherRow, done: str = "profiled") -> None:
    """Activations and outputs of a teacher are used; a licence that forbids it, or that nobody has read, stops it."""
    if row.license.startswith(("unknown", "forbidden")):
        raise NexusError(
            f'teacher {row.id} is not {done}: its licence is "{row.license}" ({row.origin.path}:{row.origin.line})',
            "read the licence; if it allows the use of activations, write its name as `license:` there",
        )
