"""A directory that is written beside its place, by one process at a time."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from nexus_core.atomic import writing
from nexus_core.errors import StateError
from nexus_core.lock import held


@contextmanager
def drafted(out: Path) -> Iterator[Path]:
    """An empty directory beside `out`, to be renamed to it. What was not renamed when the block ends is removed.

    Whoever comes second is told so; what a killed process left there is cleared away.
    """
    draft = out.with_name(f".{out.name}.draft")
    with ExitStack() as stack:
        with writing(out):
            draft.mkdir(exist_ok=True)
            descriptor = _hold(stack, draft, out)
            for entry in draft.iterdir():
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        try:
            yield draft
        finally:
            if _is(draft, descriptor):  # after a renaming, the next one's draft may lie there
                shutil.rmtree(draft, ignore_errors=True)


def _hold(stack: ExitStack, draft: Path, out: Path) -> int:
    try:
        descriptor = stack.enter_context(held(draft))
        if _is(draft, descriptor):
            return descriptor
    except (BlockingIOError, FileNotFoundError):  # at work, or just done and renamed
        pass
    raise StateError(f"{out} is being written by another process", "wait until it has ended, or name another place")


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
