"""A teacher's directory out of reach while the gate asks the student, and its way back.

It is renamed to a hidden name beside it, on the same file system, that tells what it was. So whoever misses it after a
gate was killed finds it: `resolve_path` does, and puts it back. What is renamed is also the lock, held for as long as a
gate is at work: so it is found under both names, by every user and whatever their TMPDIR, and nothing is left beside a
teacher. The system lets go of a killed gate's.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from nexus_core.errors import StateError
from nexus_core.lock import held

MARK = ".nexus-gate-"


def hidden_name(path: Path, token: str) -> Path:
    """Where `path` is while it is out of reach. Nobody who does not know the token can guess it."""
    return path.with_name(f".{path.name}{MARK}{token}")


def hidden_places(path: Path) -> list[Path]:
    """Where `path` may be hidden now: more than one place is more than one gate's doing."""
    pattern = f".{glob.escape(path.name)}{MARK}*"
    return sorted(path.parent.glob(pattern)) if path.parent.is_dir() else []


@contextmanager
def gate_lock(path: Path) -> Iterator[None]:
    """Held by the gate that hides `path`, wherever the teacher lies now; `BlockingIOError` where another one holds it."""
    with ExitStack() as stack:
        for place in (path, *hidden_places(path)):
            with suppress(FileNotFoundError):
                stack.enter_context(held(place))
        yield


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
    if not (places := hidden_places(path)):
        return ""
    try:
        with gate_lock(path):
            if len(places := hidden_places(path)) > 1:
                return f"hidden in several places: {', '.join(map(str, places))}"
            for place in places:  # none, if another process was faster
                put_back(place, path)
    except BlockingIOError:
        return "out of reach while `nexus verify` asks a student; wait until it has ended"
    except OSError as error:
        return f"hidden in {places[0]}, and cannot be put back ({error.strerror})"
    return ""
