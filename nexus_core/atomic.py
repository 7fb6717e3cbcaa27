"""Write a file so that a reader, or a power cut, sees the old content or the new one and nothing between."""

from __future__ import annotations

import os
import shutil
from pathlib import Path


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: temporary file, fsync, rename, fsync of the directory.

    The temporary name is fixed, so that what a killed writer left is overwritten by the next one. Callers that may
    write the same file at the same time hold a lock.
    """
    target = path.resolve()  # a symbolic link stays one: its target is replaced
    temporary = target.with_name(f".{target.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    if target.exists():
        shutil.copymode(target, temporary)
    os.replace(temporary, target)
    sync_directory(target.parent)


def sync_tree(folder: Path) -> None:
    """All files and names below `folder` are on the disk."""
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_directory(path)
        else:
            with path.open("rb") as file:
                os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the renames and removals in a directory survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
