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

LACKING = 0.1  # of the goal: as long as the worst lacks less, it does not have the most turns
Plan = tuple[tuple[int, Mapping[str, int]], ...]  # from which position on, whose turns
Turns = Mapping[str, int]  # how many batches of each capability there are in a round


class Round:
    """One round: each capability's turns, spread evenly. Rounds follow each other without end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = dict(turns)
        # Turn k of m comes after the share (k + 1/2) / m of the round; of equal ones in the order given.
        self._order = sorted(
            ((name, k) for name, count in self.turns.items() for k in range(count)),
            key=lambda turn: (turn[1] + 0.5) / self.turns[turn[0]],
        )

    def at(self, position: int) -> tuple[str, int]:
        """Whose turn it is, and which of its own batches that is."""
        rounds, place = divmod(position, len(self._order))
        capability, k = self._order[place]
        return capability, rounds * self.turns[capability] + k

    def before(self, position: int) -> dict[str, int]:
        """How many batches each capability has had."""
        rounds, rest = divmod(position, len(self._order))
        begun = [name for name, _ in self._order[:rest]]
        return {name: rounds * count + begun.count(name) for name, count in self.turns.items()}


class JointBatches:
    """Capabilities take turns (one each, unless stated). From a position on there may be other turns: who lacks more gets
    more. The positions at which turns changed are the `plan`, so the same plan and position give the same batch."""

    def __init__(self, sources: Mapping[str, BatchSource], turns: Turns | None = None) -> None:
        self._sources = dict(sources)
        self.plan: Plan = ((0, {name: (turns or {}).get(name, 1) for name in sources}),)

    def at(self, position: int) -> Batch:
        had = dict.fromkeys(self._sources, 0)
        ends = [start for start, _ in self.plan[1:]] + [position + 1]
        for (start, turns), end in zip(self.plan, ends, strict=True):
            if position < end:
                capability, own = Round(turns).at(position - start)
                return replace(self._sources[capability].at(had[capability] + own), capability=capability)
            for name, count in Round(turns).before(end - start).items():
                had[name] += count
        raise AssertionError("the last part of a plan has no end")

    def turn(self, position: int, turns: Turns) -> None:
        """Other turns from this position on, which lies behind all that was asked for; nobody has fewer than at first."""
        turns = {name: max(count, self.plan[0][1][name]) for name, count in turns.items()}
        self.plan = (*(part for part in self.plan if part[0] < position), (position, turns))


def answer_turns(lengths: Mapping[str, tuple[float, float]], most: int) -> dict[str, int]:
    """Turns from the mean length of a capability's rows and of their answers: who has few answer tokens among many has more
    turns, so that what is learnt from counts alike; at most `most`."""
    shares = {name: answer / row for name, (row, answer) in lengths.items()}
    best = max(shares.values(), default=1.0)
    return {name: min(most, max(1, round(best / share))) for name, share in shares.items()}


def turns_by_need(reached: Mapping[str, float], most: int) -> dict[str, int]:
    """Turns from what each capability has reached of its goal: `most` for who lacks most, one for who lacks nothing, and the
    others between them."""
    lacks = {name: max(0.0, 1.0 - share) for name, share in reached.items()}
    worst = max(LACKING, *lacks.values())
    return {name: 1 + round((most - 1) * lack / worst) for name, lack in lacks.items()}


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
        """A first look at all of them; everything only where none of them is still far from its goal."""
        of = self._validations.items()
        looks = {} if full else {name: validation.look(settings) for name, validation in of}
        if any(look.excluded for look in looks.values()):
            found = {name: look.measured for name, look in looks.items()}
        else:
            found = {name: validation.decide(settings, looks.get(name)) for name, validation in of}
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
            parts={name: {**asdict(measured), "reached": reached[name]} for name, measured in found.items()},
        )

    def better(self, one: float, two: float) -> bool:
        """Whether score `one` is better than `two`."""
        return one > two

    def gain(self, score: float) -> float:
        """A score that is larger when better, as it is."""
        return score
