"""Word problems of two to four steps: an opening, events and a question, each of which may carry one operation.

The hash of the chain of operations and numbers decides the split: a chain of one split appears in no other, whatever
the words.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from nexus_core.types import Sample, Split

LARGEST = 99  # two columns: a model of a million parameters learns this arithmetic in minutes
FINITE = 1000  # size of the profile and verify splits when all of them is asked for


@cache
def phrases() -> Mapping[str, Any]:
    """The words, from `phrases.yaml`."""
    data: Mapping[str, Any] = yaml.safe_load(files(__package__).joinpath("phrases.yaml").read_text("utf-8"))
    return data


@dataclass(slots=True)
class Problem:
    """One problem while it is being written."""

    rng: random.Random
    value: int = 0
    sentences: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)

    def say(self, part: str, operation: str, **numbers: int) -> None:
        phrase = self.rng.choice(phrases()[part][operation])
        self.sentences.append(phrase.format(**self.words, **numbers))

    def apply(self, operation: str, left: int, right: int) -> None:
        self.value = compute(operation, left, right)
        # Two columns each, as one adds on paper: place values stand at fixed distances, which a small model can learn.
        self.steps.append(f"{left:02}{operation}{right:02}={self.value:02}")


def compute(operation: str, left: int, right: int) -> int:
    """`left operation right`; 0 where the result is not a whole number from 1 to LARGEST."""
    if operation == "/":
        return left // right if left % right == 0 else 0
    result = {"+": left + right, "-": left - right, "*": left * right}[operation]
    return result if 0 < result <= LARGEST else 0


def operand(rng: random.Random, operation: str, value: int) -> int | None:
    """A right-hand number that keeps the result whole and between 1 and LARGEST; None when there is none."""
    if operation == "*":
        return rng.randint(2, min(9, LARGEST // value)) if value * 2 <= LARGEST else None
    if operation == "/":
        divisors = [k for k in range(2, 10) if value % k == 0 and value > k]
        return rng.choice(divisors) if divisors else None
    if operation == "-":
        return rng.randint(1, value - 1) if value > 1 else None
    return rng.randint(1, LARGEST - value) if value < LARGEST else None


def write(rng: random.Random) -> Problem | None:
    """One problem; None when the drawn operations do not fit the numbers."""
    words = phrases()
    who, other = rng.sample(words["people"], 2)
    problem = Problem(rng)
    problem.words = {"who": who, "other": other} | {k: rng.choice(words[w]) for k, w in NOUNS.items()}
    count = rng.choice((2, 3, 3, 4))
    begins = rng.random() < 0.5
    ends = rng.random() < 0.5
    if not opening(problem, rng.choice("+-*/") if begins else ""):
        return None
    while len(problem.steps) < count - ends:
        if not event(problem, rng.choice("+-*/")):
            return None
    if rng.random() < 0.15:
        aside = rng.choice(words["aside"]).format(**problem.words, m=rng.randint(2, 90))
        problem.sentences.insert(rng.randint(1, len(problem.sentences)), aside)
    return problem if ending(problem, rng.choice("+-~*/") if ends else "") else None


NOUNS = {"things": "things", "boxes": "boxes", "place": "places"}


def opening(problem: Problem, operation: str) -> bool:
    """State the first amount, given or to be computed."""
    a = problem.rng.choice((problem.rng.randint(2, 20), problem.rng.randint(2, LARGEST)))
    if not operation:
        problem.value = a
        problem.say("opening", "", a=a)
        return True
    b = operand(problem.rng, operation, a)
    if b is None:
        return False
    problem.say("opening", operation, a=a, b=b)
    problem.apply(operation, a, b)
    return True


def event(problem: Problem, operation: str) -> bool:
    """Change the running amount."""
    n = operand(problem.rng, operation, problem.value)
    if n is None:
        return False
    problem.say("event", operation, n=n)
    problem.apply(operation, problem.value, n)
    return True


def ending(problem: Problem, operation: str) -> bool:
    """Ask; `~` asks for what is missing to a goal."""
    if not operation:
        problem.say("ending", "")
        return True
    if operation == "~":
        missing = operand(problem.rng, "+", problem.value)
        if missing is None:
            return False
        goal = problem.value + missing
        problem.say("ending", "~", n=goal)
        problem.apply("-", goal, problem.value)
        return True
    n = operand(problem.rng, operation, problem.value)
    if n is None:
        return False
    problem.say("ending", operation, n=n)
    problem.apply(operation, problem.value, n)
    return True


def split_of(chain: str) -> Split:
    """The split that a chain of operations belongs to: 80 % train, 10 % profile, 10 % verify."""
    bucket = hashlib.sha256(chain.encode()).digest()[0] % 10
    return Split.TRAIN if bucket < 8 else Split.PROFILE if bucket == 8 else Split.VERIFY


def generate(split: Split, n: int | None, seed: int) -> Iterator[Sample]:
    """`n` samples of a split, in an order that depends on `seed` alone. Profile and verify never repeat a chain."""
    rng = random.Random(f"reasoning/{split}/{seed}")
    limit = n if n is not None else None if split is Split.TRAIN else FINITE
    seen: set[str] = set()
    made = 0
    while limit is None or made < limit:
        problem = write(rng)
        if problem is None:
            continue
        chain = "|".join(problem.steps)
        if split_of(chain) is not split or chain in seen:
            continue
        if split is not Split.TRAIN:
            seen.add(chain)
        yield to_sample(problem, f"reasoning/{split}/{seed}/{made}")
        made += 1


def to_sample(problem: Problem, name: str) -> Sample:
    """The finished problem; the target holds the steps and then `#### answer`."""
    return Sample(
        id=name,
        prompt=" ".join(problem.sentences),
        target="\n".join([*problem.steps, f"#### {problem.value}"]),
        stratum=f"{len(problem.steps)} steps",
        meta={"answer": str(problem.value), "kind": "number"},
    )
