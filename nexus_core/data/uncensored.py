"""What counts as uncensored data: it is reachable only with `allow_uncensored=True`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from nexus_core.errors import DataError
from nexus_core.uncensored import is_named_uncensored

FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---", re.DOTALL)
CARD_FLAG = re.compile(r"^uncensored:\s*[\"']?(true|yes)\b", re.IGNORECASE | re.MULTILINE)
CARD_BYTES = 1 << 16


def lies_in_uncensored(parts: Sequence[str], own: int) -> bool:
    """Whether a path leads to uncensored data: by the word in its `own` last parts, or by a folder named just so.

    Further up only the plain name counts: a project that is called `my-uncensored-study` has ordinary data, too.
    """
    return is_named_uncensored(parts[-own:]) or any(part.lower() == "uncensored" for part in parts)


def card_says_uncensored(card: bytes) -> bool:
    """Whether a dataset card (README.md) has `uncensored: true` in its front matter."""
    text = card[:CARD_BYTES].decode("utf-8", "replace").removeprefix("\ufeff").replace("\r\n", "\n")
    match = FRONT_MATTER.match(text)
    return match is not None and CARD_FLAG.search(match[1]) is not None


def _card_of(folder: Path) -> bytes:
    card = folder / "README.md"
    try:
        if not card.is_file():  # a pipe of that name would be waited on for ever
            return b""
        with card.open("rb") as stream:
            return stream.read(CARD_BYTES)
    except OSError:
        return b""  # no card, no claim


def refuse_uncensored(shown: str, path: Path, allow: bool) -> None:
    """`DataError` when the dataset itself, as named or as it resolves, is uncensored and that was not allowed."""
    if allow:
        return
    real = path.resolve()
    own = 2 if path.is_file() else 1  # a file belongs to the dataset that its folder is named after
    named = any(lies_in_uncensored(parts, own) for parts in (path.parts, path.absolute().parts, real.parts))
    if named or any(card_says_uncensored(_card_of(folder)) for folder in (real, *real.parents)):
        raise uncensored_error(shown)


def uncensored_error(shown: str) -> DataError:
    """The error for a dataset that was not asked for by the flag."""
    return DataError(
        f"{shown}: this is uncensored data, which only the isolated capability may read",
        "pass allow_uncensored=True if that is what you are doing",
    )
