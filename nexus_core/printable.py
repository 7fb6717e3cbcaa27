"""Foreign text (what a plugin raised, what a file is called) as one line that is safe to print."""

from __future__ import annotations

LIMIT = 500  # characters; a longer reason is noise


def one_line(text: str, limit: int | None = None) -> str:
    """`text` without line breaks, runs of white space and control characters, which can rewrite a terminal."""
    clean = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return clean if limit is None or len(clean) <= limit else f"{clean[:limit]} ..."
