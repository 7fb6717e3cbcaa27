"""What counts as uncensored by its name: a dataset's, and an adapter's, which is isolated then."""

from __future__ import annotations

import re
from collections.abc import Iterable

WORD = re.compile(r"(?<![a-z0-9])uncensored(?![a-z0-9])")


def is_named_uncensored(parts: Iterable[str]) -> bool:
    """Whether a name has the word: `uncensored`, `uncensored.jsonl`, `wizard-70k_uncensored`."""
    return any(WORD.search(part.lower()) for part in parts)
