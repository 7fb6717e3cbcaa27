"""One hash for a whole directory: what a verification report is bound to."""

from __future__ import annotations

import os
from hashlib import sha256
from pathlib import Path

from nexus_core.errors import ModelError

CHUNK = 1 << 20


def student_digest(path: Path) -> str:
    """SHA-256 over the names and bytes of all files below `path`, a student's directory or a bundle's."""
    if not path.is_dir():
        raise ModelError(f"{path}: no such directory", "name the directory of a student or a bundle")
    whole = sha256()
    for name in sorted(_names(path)):
        content = path / name
        digest = sha256()
        with content.open("rb") as file:
            while block := file.read(CHUNK):
                digest.update(block)
        whole.update(f"{name}\0{digest.hexdigest()}\n".encode())
    return whole.hexdigest()


def _names(path: Path) -> list[str]:
    names = []
    for folder, inside, files in os.walk(path):
        for entry in (*inside, *files):
            where = Path(folder, entry)
            if where.is_symlink() or not (where.is_dir() or where.is_file()):
                raise ModelError(f"{where} is no regular file", "a student holds its own files; copy the file there")
        names += [Path(folder, file).relative_to(path).as_posix() for file in files]
    return names
