"""What is wrong in a registry file, where, and what to do about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nexus_core.errors import RegistryError


class ProblemError(RegistryError):
    """A RegistryError that knows its place."""

    def __init__(self, problem: Problem, more: int = 0) -> None:
        others = f" (and {more} more: `nexus registry check {problem.path}` lists all)" if more else ""
        super().__init__(f"{problem}{others}", problem.hint)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem, at one line of one file; `row` is (section, id) when one row alone is to blame."""

    path: Path
    line: int
    message: str
    hint: str = ""
    row: tuple[str, str] | None = None

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def at(path: Path, line: int, message: str, hint: str) -> ProblemError:
    """An error at one line of one file."""
    return ProblemError(Problem(path, line, message, hint))


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the first problem, if there is one, with the number of the others."""
    if problems:
        raise ProblemError(problems[0], more=len(problems) - 1)
