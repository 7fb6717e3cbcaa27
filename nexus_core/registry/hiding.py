"""A teacher's directory out of reach while the gate asks the student, and its way back.

It is renamed to a hidden name beside it, on the same file system, that tells what it was. So whoever misses it after a
gate was killed finds it: `resolve_path` does, and puts it back. The lock is held for as long as a gate is at work; the
system lets go of a killed one's.
"""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.errors import StateError

if TYPE_CHECKING:
    from filelock import BaseFileLock

MARK = ".nexus-gate-"


def hidden_name(path: Path, token: str) -> Path:
    """Where `path` is while it is out of reach. Nobody who does not know the token can guess it."""
    return path.with_name(f".{path.name}{MARK}{token}")


def hidden_places(path: Path) -> list[Path]:
    """Where `path` may be hidden now: more than one place is more than one gate's doing."""
    pattern = f".{glob.escape(path.name)}{MARK}*"
    return sorted(path.parent.glob(pattern)) if path.parent.is_dir() else []


def gate_lock(path: Path) -> BaseFileLock:
    """Held by the gate that hides `path`. It lies apart, so that a teacher's directory is left as it was found."""
    from filelock import FileLock

    user = os.getuid() if hasattr(os, "getuid") else 0
    name = hashlib.sha256(os.fsencode(path.absolute())).hexdigest()[:32]
    return FileLock(Path(tempfile.gettempdir()) / f"nexus-gate-{user}-{name}.lock", timeout=0)


def put_back(hidden: Path, path: Path) -> None:
    """Undo the renaming. What has come to lie at `path` meanwhile is never overwritten."""
    if os.path.lexists(path):
        raise StateError(
            f"{path} cannot be put back from {hidden}: something lies there already",
            f"compare the two, and move one of them away; the teacher is the one in {hidden}",
        )
    hidden.rename(path)


def recover(path: Path) -> str:
    """Put `path` back where a killed gate hid it. Empty when it is back or was never hidden, else why it is not."""
    from filelock import Timeout

    if not (places := hidden_places(path)):
        return ""
    try:
        with gate_lock(path):
            if len(places := hidden_places(path)) > 1:
                return f"hidden in several places: {', '.join(map(str, places))}"
            for place in places:  # none, if another process was faster
                put_back(place, path)
    except Timeout:
        return "out of reach while `nexus verify` asks a student; wait until it has ended"
    return ""
