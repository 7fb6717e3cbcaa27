"""Stop on retention: the student answers the capability's profile split, and is compared with what its teacher scored.

An evaluation looks at a few answers first. Where their 95 % interval excludes the goal, that is the measurement; where it
does not, the rest is asked, and decides. So evaluations are cheap for as long as the student is far from its contract, and
their schedule is a function of the step alone: a resumed run evaluates where the undisturbed one did.
The verify split is never touched: it belongs to the gate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nexus_core.distill.settings import RetentionSettings
from nexus_core.errors import UsageError
from nexus_core.evaluation import Answerer, Evaluation, evaluate
from nexus_core.types import CapabilityMetric, Contract, Direction, GenerateOptions, Sample, SampleRequest, Split


@dataclass(frozen=True, slots=True)
class Measured:
    """One evaluation of the student. `retention` is its score in units of the teacher's; `full`: on all answers."""

    score: float
    teacher: float
    retention: float
    goal: float
    n: int
    low: float
    high: float
    full: bool
    met: bool
    seconds: float
    parts: Mapping[str, Any] = field(default_factory=dict)  # by capability, where several were measured


@dataclass(frozen=True, slots=True)
class Look:
    """A first look; `excluded`: its interval has no room for the goal."""

    measured: Measured
    excluded: bool
    answers: _Remembering


class Validation:
    """Measures one capability of a student. `teacher` is the score in the teacher's profile, on the same split."""

    def __init__(
        self,
        metric: CapabilityMetric,
        contract: Contract,
        teacher: float,
        answerer: Answerer,
        request: SampleRequest | None = None,
    ) -> None:
        self._request = request or SampleRequest(Split.PROFILE)
        if self._request.split is Split.VERIFY:
            raise UsageError("training must not look at the verify split", "validate on the profile split")
        self.metric = metric
        self.teacher = teacher
        self.goal = goal(contract, teacher)
        self._sign = 1.0 if metric.direction is Direction.HIGHER else -1.0
        self._answerer = answerer

    def measure(self, settings: RetentionSettings, full: bool = False) -> Measured:
        """A first look, then everything where it is worth it or where `full` is asked for."""
        look = None if full else self.look(settings)
        return look.measured if look and look.excluded else self.decide(settings, look)

    def look(self, settings: RetentionSettings) -> Look:
        """A few answers."""
        remembering = _Remembering(self._answerer)
        found = self._evaluate(remembering, settings.screen)
        hopeful = found.ci95[1] if self._sign > 0 else found.ci95[0]
        excluded = self._sign * (hopeful - self.goal) < 0
        return Look(self._measured(found, settings, full=False), excluded, remembering)

    def decide(self, settings: RetentionSettings, look: Look | None = None) -> Measured:
        """All answers; those of the first look are among them."""
        found = self._evaluate(look.answers if look else _Remembering(self._answerer), settings.full)
        spent = look.measured.seconds if look else 0.0
        return self._measured(replace(found, seconds=found.seconds + spent), settings, full=True)

    def better(self, one: float, two: float) -> bool:
        """Whether score `one` is better than `two`."""
        return self.gain(one) > self.gain(two)

    def reached(self, score: float) -> float:
        """How much of its goal a score is: 1 at the goal, more is better, also where lower scores are."""
        return 1.0 + self._sign * (score - self.goal) / (abs(self.goal) or 1.0)

    def gain(self, score: float) -> float:
        """The score with a sign that makes larger better."""
        return self._sign * score

    def _evaluate(self, answerer: Answerer, n: int) -> Evaluation:
        return evaluate("student", answerer, self.metric, replace(self._request, n=n))[0]

    def _measured(self, found: Evaluation, settings: RetentionSettings, full: bool) -> Measured:
        margin = settings.margin * abs(self.teacher)
        return Measured(
            score=found.score,
            teacher=self.teacher,
            retention=found.score / self.teacher,
            goal=self.goal,
            n=found.n,
            low=found.ci95[0],
            high=found.ci95[1],
            full=full,
            met=full and self._sign * (found.score - self.goal) >= margin,
            seconds=found.seconds,
        )


def goal(contract: Contract, teacher: float) -> float:
    """The score that the contract asks of the student, whose teacher scored `teacher`."""
    demands = [contract.minimum] if contract.minimum is not None else []
    if contract.retain_fraction is not None:
        if not teacher > 0:
            raise UsageError(
                f"the teacher of {contract.capability} scores {teacher}, of which no share can be retained",
                "profile it again, or give the contract a minimum and retain_fraction: null",
            )
        demands.append(contract.retain_fraction * teacher)
    if not demands:
        raise UsageError(f"the contract of {contract.capability} demands nothing", "see `nexus registry`")
    return max(demands) if contract.direction is Direction.HIGHER else min(demands)


@dataclass(frozen=True, slots=True)
class Progress:
    """What the evaluations have shown so far. Stored in every checkpoint."""

    score: float | None = None  # of the last evaluation
    step: int = -1  # of that evaluation
    best: float | None = None
    since: int = 0  # evaluations since the best one
    met: bool = False

    def after(self, step: int, measured: Measured, better: bool) -> Progress:
        """With one evaluation more, which was `better` than all before or not."""
        best, since = (measured.score, 0) if better else (self.best, self.since + 1)
        return Progress(measured.score, step, best, since, measured.met)


def evaluation_due(step: int, ceiling: int, settings: RetentionSettings) -> bool:
    """Whether the student is evaluated after `step` steps: every so many, from the share `first` of the ceiling on."""
    start = max(round(settings.first * ceiling), 1)
    return settings.every > 0 and step >= start and (step - start) % settings.every == 0


class _Remembering:
    """Asks for a sample once only: the first look is part of the whole."""

    def __init__(self, answerer: Answerer) -> None:
        self._answerer = answerer
        self._known: dict[str, Any] = {}

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[Any]:
        new = [sample for sample in samples if sample.digest not in self._known]
        if new:
            outputs = self._answerer.generate(new, options)
            self._known.update(zip((sample.digest for sample in new), outputs, strict=True))
        return [self._known[sample.digest] for sample in samples]
