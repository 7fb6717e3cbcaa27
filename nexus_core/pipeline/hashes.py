"""The identity of what lies on the disk: a teacher's files, a dataset, a backbone. A large file is read once for as long
as its size and its time stay the same."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from nexus_core.atomic import write_atomic
from nexus_core.pipeline.units import file_digest

ABOUT = (".md", ".lock")  # files beside a checkpoint that decide nothing
LARGE = 64 << 20  # bytes from which a file's hash is remembered


class Hashes:
    """Remembers the hashes of large files at `path`; `save` writes them down."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known = _read(path)
        self._changed = False

    def of(self, place: Path) -> str:
        """Of a file, or of all files below a directory by their names."""
        if place.is_file():
            return self._file(place)
        digest = hashlib.sha256()
        for file in sorted(path for path in place.rglob("*") if path.is_file() and path.suffix not in ABOUT):
            digest.update(f"{file.relative_to(place).as_posix()} {self._file(file)}\n".encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Write down what was learnt."""
        if self._changed:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self.path, (json.dumps(self._known, indent=0, sort_keys=True) + "\n").encode())
            self._changed = False

    def _file(self, file: Path) -> str:
        stat = file.stat()
        if stat.st_size < LARGE:
            return file_digest(file)
        name, state = str(file.resolve()), [stat.st_size, stat.st_mtime_ns]
        known = self._known.get(name)
        if known is not None and known[:2] == state:
            return str(known[2])
        found = file_digest(file)
        self._known[name] = [*state, found]
        self._changed = True
        return found


def _read(path: Path) -> dict[str, list[object]]:
    """Nothing where it cannot be read: then the files are."""
    try:
        raw = json.loads(path.read_bytes())
        return {str(name): list(entry) for name, entry in raw.items() if len(entry) == 3}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}
