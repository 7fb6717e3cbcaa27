"""What stands before the gate: a student's directory or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.errors import DataError

if TYPE_CHECKING:
    from nexus_core.student.arch import StudentArch
    from nexus_core.student.files import Student

MANIFEST = "manifest.json"  # its absence means "not a bundle"


def subject_arch(path: Path) -> StudentArch:
    """The plan of what lies there; no weight is read."""
    from nexus_core.student.arch import ARCH, read_arch

    if (path / MANIFEST).is_file():
        from nexus_core.bundle.reader import open_bundle

        return open_bundle(path).arch
    if (path / ARCH).is_file():
        return read_arch(path / ARCH)
    raise DataError(
        f"{path} is neither a student nor a bundle", "name the directory that `nexus distill` wrote: RUN/student"
    )


def load_subject(path: Path) -> Student:
    """All of it, every adapter included."""
    if (path / MANIFEST).is_file():
        from nexus_core.bundle.reader import open_bundle

        return open_bundle(path).student()
    from nexus_core.student.files import read_student

    return read_student(path)
