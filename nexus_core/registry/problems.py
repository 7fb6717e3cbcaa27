"""What is wrong in a registry file, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_core.errors import RegistryError


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, at one line of one file."""

    path: Path
    line: int
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"

    def error(self, more: int = 0) -> RegistryError:
        """This problem as an error that counts the others."""
        text = str(self) if not more else f"{self} (and {more} more: `nexus registry check {self.path}` lists all)"
        return RegistryError(text, self.hint)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean "metric"?`, or nothing when no known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the first problem, if there is one, with the number of the others."""
    if problems:
        raise problems[0].error(more=len(problems) - 1)
