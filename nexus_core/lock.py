"""One process at a time: a lock on a file, and a clear word on who holds it for whoever comes second."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from nexus_core.errors import StateError

if TYPE_CHECKING:
    from filelock import FileLock


class ProcessLock:
    """Held while the `with` block lasts; the system lets go of a killed process's lock.

    `what` is what it protects, for messages; `title` is what the holder does (`nexus distill`), for the others.
    """

    def __init__(self, path: Path, what: str, title: str = "") -> None:
        self.path, self.what, self.title = path, what, title
        self._lock = _file_lock(path)

    @property
    def held(self) -> bool:
        return bool(self._lock.is_locked)

    def __enter__(self) -> Self:
        from filelock import Timeout

        process, title = _holder(self.path)
        try:
            self._lock.acquire()
        except Timeout as error:
            who = f"process {process}" if process else "another process"
            raise StateError(
                f"{self.what} is in use by {who}{f' ({title})' if title else ''}",
                f"wait for it, or stop it (kill {process or 'PID'}); or run in another directory",
            ) from error
        except OSError as error:
            raise StateError(f"{self.path} cannot be locked ({error.strerror})", "check the directory") from error
        self.path.write_text(f"{os.getpid()} {self.title}".strip(), encoding="utf-8")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()


def _file_lock(path: Path) -> FileLock:
    from filelock import FileLock  # 40 ms: not for those who only ask for help

    return FileLock(path, timeout=0)


def _holder(path: Path) -> tuple[str, str]:
    """Process and title that the holder of the lock wrote into it. Meaningful only while the lock is held."""
    try:
        process, _, title = path.read_text("utf-8").partition(" ")
    except (OSError, UnicodeDecodeError):
        return "", ""
    return (process, title[:60]) if process.isdigit() else ("", "")


@contextmanager
def held(path: Path) -> Iterator[int]:
    """A file or directory that is its own lock: nothing lies beside it, and who renames it goes on holding it.

    `BlockingIOError` where somebody holds it already; the system lets go of what a killed process held. Yields the open
    descriptor.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield descriptor
    finally:
        os.close(descriptor)
