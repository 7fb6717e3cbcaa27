"""Several capabilities taught at once: their batches take turns, and each counts the same, whatever its answers' length."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from nexus_core.distill.batches import Batch
from nexus_core.distill.job import BatchSource
from nexus_core.distill.objective import Moment, Objective, Terms
from nexus_core.distill.retention import Measured, Validation
from nexus_core.distill.settings import RetentionSettings


class JointBatches:
    """A round gives each capability its `turns` (one, unless stated), spread evenly; then the next round begins."""

    def __init__(self, sources: Mapping[str, BatchSource], turns: Mapping[str, int] | None = None) -> None:
        self._sources = dict(sources)
        self._turns = {name: (turns or {}).get(name, 1) for name in sources}
        # Turn k of m comes after the share (k + 1/2) / m of the round; of equal ones in the order given.
        self._round = sorted(
            ((name, k) for name, count in self._turns.items() for k in range(count)),
            key=lambda turn: (turn[1] + 0.5) / self._turns[turn[0]],
        )

    def at(self, position: int) -> Batch:
        rounds, place = divmod(position, len(self._round))
        capability, k = self._round[place]
        own = rounds * self._turns[capability] + k
        return replace(self._sources[capability].at(own), capability=capability)


def answer_turns(lengths: Mapping[str, tuple[float, float]], most: int) -> dict[str, int]:
    """Turns from the mean length of a capability's rows and of their answers: who has few answer tokens among many has more
    turns, so that what is learnt from counts alike; at most `most`."""
    shares = {name: answer / row for name, (row, answer) in lengths.items()}
    best = max(shares.values(), default=1.0)
    return {name: min(most, max(1, round(best / share))) for name, share in shares.items()}


class JointObjective:
    """Each batch by the objective of its capability, with that adapter chosen. A step has `batches` of them, as many of each
    capability; its loss is the mean over them."""

    def __init__(self, objectives: Mapping[str, Objective], batches: int) -> None:
        self._objectives, self._batches = dict(objectives), batches

    def __call__(self, student: Any, batch: Batch, moment: Moment) -> Terms:
        with student.using(batch.capability, allow_isolated=True):
            terms = self._objectives[batch.capability](
                student, batch, replace(moment, positions=batch.positions * self._batches)
            )
        # Parts are shares of the step's loss; this is the batch's own, whoever else has one in the step.
        own = {f"nll/{batch.capability}": terms.parts["nll"] * self._batches}
        return replace(terms, means={**terms.means, **own})


class JointValidation:
    """Of several capabilities, the one that lacks most: `score` is what it reaches of its goal, so the goal is 1."""

    goal = 1.0
    teacher = 1.0

    def __init__(self, validations: Mapping[str, Validation]) -> None:
        self._validations = dict(validations)

    def measure(self, settings: RetentionSettings, full: bool = False) -> Measured:
        """All of them, each with its own first look."""
        found = {name: validation.measure(settings, full) for name, validation in self._validations.items()}
        reached = {name: validation.reached(found[name].score) for name, validation in self._validations.items()}
        worst = min(reached, key=lambda name: reached[name])
        low, high = sorted(self._validations[worst].reached(end) for end in (found[worst].low, found[worst].high))
        return replace(
            found[worst],
            score=reached[worst],
            teacher=self.teacher,
            goal=self.goal,
            low=low,
            high=high,
            n=sum(measured.n for measured in found.values()),
            full=all(measured.full for measured in found.values()),
            met=all(measured.met for measured in found.values()),
            seconds=sum(measured.seconds for measured in found.values()),
            parts={name: asdict(measured) for name, measured in found.items()},
        )

    def better(self, one: float, two: float) -> bool:
        """Whether score `one` is better than `two`."""
        return one > two

    def gain(self, score: float) -> float:
        """A score that is larger when better, as it is."""
        return score
