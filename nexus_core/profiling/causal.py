"""The causal test: what does the teacher lose without this component, head or block?

A class is given only when the paired interval lies inside it. What the interval does not decide gets more samples, up to
the stated number, and after that the strongest class that is not excluded, marked as undecided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nexus_core.profiling.interventions import Intervention
from nexus_core.profiling.model import ComponentClass
from nexus_core.profiling.scoring import Scorer
from nexus_core.stats import Drop, paired_drop
from nexus_core.types import Thresholds

FIRST_LOOK = 50  # samples before the first decision; each further look doubles them


@dataclass(frozen=True, slots=True)
class Verdict:
    """A class, and whether the interval supports it alone."""

    cls: ComponentClass
    undecided: bool


def class_of(drop: float, thresholds: Thresholds) -> ComponentClass:
    """The class that a drop falls into."""
    if drop > thresholds.non_negotiable:
        return ComponentClass.NON_NEGOTIABLE
    return ComponentClass.RECOVERABLE if drop >= thresholds.recoverable else ComponentClass.DISCARDABLE


def judge(drop: Drop, thresholds: Thresholds) -> Verdict:
    """The class that the whole interval lies in, or the strongest that it touches."""
    strongest = class_of(drop.high, thresholds)
    return Verdict(strongest, undecided=class_of(drop.low, thresholds) is not strongest)


def drops(
    scorer: Scorer, cases: Sequence[Intervention], indices: Sequence[int], seed: int
) -> tuple[list[Drop], np.ndarray]:
    """The paired drop of each case on some samples, and the scores that it comes from: (cases, samples)."""
    scores = scorer.scores(cases, indices)
    samples = [scorer.samples[i] for i in indices]
    before = scorer.baseline.scores[list(indices)]
    return [paired_drop(scorer.metric, samples, before, row, seed) for row in scores], scores


def decide(
    scorer: Scorer, cases: Sequence[Intervention], order: Sequence[int], thresholds: Thresholds, seed: int
) -> list[tuple[Drop, Verdict]]:
    """Test every case on as many of `order`'s samples as its verdict needs."""
    outcome: list[tuple[Drop, Verdict] | None] = [None] * len(cases)
    seen = [np.empty(0)] * len(cases)
    open_ = list(range(len(cases)))
    start, size = 0, min(FIRST_LOOK, len(order))
    while open_ and start < len(order):
        chosen = list(order[start : start + size])
        scores = scorer.scores([cases[i] for i in open_], chosen)
        start += len(chosen)
        samples, before = [scorer.samples[i] for i in order[:start]], scorer.baseline.scores[list(order[:start])]
        for case, row in zip(open_, scores, strict=True):
            seen[case] = np.concatenate([seen[case], row])
            drop = paired_drop(scorer.metric, samples, before, seen[case], seed)
            outcome[case] = (drop, judge(drop, thresholds))
        open_ = [case for case in open_ if (result := outcome[case]) is None or result[1].undecided]
        size = start  # double what has been seen
    return [result for result in outcome if result is not None]
