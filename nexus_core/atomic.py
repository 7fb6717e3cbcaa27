"""Write a file so that a reader, or a power cut, sees the old content or the new one and nothing between.

What the system refuses on the way is `Unwritable`, with the place and what to do: no caller has to think of a full disk.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from nexus_core.errors import NexusError, UsageError

_OF_RUST = re.compile(r"\(os error (\d+)\)")  # safetensors and tokenizers have errors of their own, or none
_HINTS = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there, or name another place"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "correct the permissions, or name another place"),
    **dict.fromkeys((errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "something else lies there: name another place"),
    **dict.fromkeys((errno.EIO, errno.ENAMETOOLONG, errno.ELOOP, errno.EBUSY, errno.ESTALE), "name another place"),
    errno.ENOENT: "create the directory around it first, or name another place",
}


class Unwritable(NexusError):
    """A place that cannot be written, and why."""

    def __init__(self, place: Path, reason: str, hint: str) -> None:
        super().__init__(f"{place} cannot be written: {reason}", hint)
        self.reason = reason


class writing:  # noqa: N801 - it reads as a word: with writing(path)
    """Inside, a refusal of the system (no room, no right, something in the way) is an error that names `place`."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if error is not None and (number := _refusal(error)) in _HINTS:
            raise _unwritable(self.place, number) from error


def _unwritable(place: Path, number: int) -> Unwritable:
    return Unwritable(place, os.strerror(number), _HINTS[number])


def _refusal(error: BaseException) -> int:
    """The number of the system's error; 0 where it is none."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = None if isinstance(error, NexusError) else _OF_RUST.search(str(error))
    return int(said[1]) if said else 0


def write_atomic(path: Path, content: bytes) -> None:
    """Replace `path` by `content`: temporary file, fsync, rename, fsync of the directory.

    The temporary name is fixed, so that what a killed writer left is overwritten by the next one. Callers that may
    write the same file at the same time hold a lock.
    """
    target = path.resolve()  # a symbolic link stays one: its target is replaced
    temporary = target.with_name(f".{target.name}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                shutil.copymode(target, temporary)
            os.replace(temporary, target)
        except OSError:
            with suppress(OSError):
                temporary.unlink()  # on a full disk, half a file is in the way of everything
            raise
        sync_directory(target.parent)


def check_writable(path: Path) -> None:
    """Before long work: an error unless `path` can be written when it is done."""
    around = path.absolute().parent
    if not around.is_dir():
        raise UsageError(f"{path.parent} is no directory", "create it first")
    with writing(path), tempfile.TemporaryFile(dir=around):  # rights alone do not tell: root has them everywhere
        pass


def make_directory(path: Path) -> None:
    """The directory and those around it, unless it is there."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


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
