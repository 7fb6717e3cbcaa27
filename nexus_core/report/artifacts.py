"""Reading with distrust: a part that is not there says how to make it, a part that is damaged is an error that names it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nexus_core.errors import DataError

Part = dict[str, Any]
KEPT = "\n\t"  # the control characters that a page can show


def absent(what: str, *command: str | Path) -> Part:
    """In place of a part: why it is not there, and the command that makes it."""
    return {"absent": what, "command": shlex.join(["nexus", *map(str, command)]) if command else None}


def is_there(part: Mapping[str, Any]) -> bool:
    """Whether a part has content."""
    return "absent" not in part


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """A file that has not the shape that its writer gives it is an error that says where."""
    try:
        yield
    except (KeyError, IndexError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} has not the shape it was written with ({error!r})", "make it again") from error


def share(part: float | None, whole: float | None) -> float | None:
    """A ratio; None where there is none."""
    return None if part is None or not whole else part / whole


def readable(value: Any) -> Any:
    """The same with every text as it can be shown: a control character or half a character becomes a replacement mark."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() or c in KEPT else "\ufffd" for c in value)
    if isinstance(value, Mapping):
        return {readable(key): readable(item) for key, item in value.items()}
    return [readable(item) for item in value] if isinstance(value, list | tuple) else value
