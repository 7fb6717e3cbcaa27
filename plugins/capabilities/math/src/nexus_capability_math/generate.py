"""Generated problems. The hash of a problem's mathematical content decides its split, whatever the wording."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator

from nexus_capability_math.families import FAMILIES, Problem
from nexus_core.types import Sample, Split

FINITE = 1000  # size of the profile and verify splits when all of them is asked for


def split_of(key: str) -> Split:
    """80 % train, 10 % profile, 10 % verify."""
    bucket = hashlib.sha256(key.encode()).digest()[0] % 10
    return Split.TRAIN if bucket < 8 else Split.PROFILE if bucket == 8 else Split.VERIFY


def generate(split: Split, n: int | None, seed: int) -> Iterator[Sample]:
    """`n` samples of a split, in an order that depends on `seed` alone. Profile and verify never repeat a problem."""
    rng = random.Random(f"math/{split}/{seed}")
    limit = n if n is not None else None if split is Split.TRAIN else FINITE
    families = list(FAMILIES)
    seen: set[str] = set()
    made = 0
    while limit is None or made < limit:
        family = rng.choice(families)
        problem = FAMILIES[family](rng)
        key = f"{family}/{problem.key}"
        if split_of(key) is not split or key in seen:
            continue
        if split is not Split.TRAIN:
            seen.add(key)
        yield to_sample(problem, family, f"math/{split}/{seed}/{made}")
        made += 1


def to_sample(problem: Problem, family: str, name: str) -> Sample:
    """The target holds the worked steps and then `#### answer`."""
    return Sample(
        id=name,
        prompt=problem.question,
        target="\n".join([*problem.steps, f"#### {problem.answer}"]),
        stratum=family,
        meta={"answer": str(problem.answer)},
    )
