"""Score anything that answers samples on a capability: one value, its n, and an interval."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from nexus_core.errors import DataError
from nexus_core.stats import score_interval
from nexus_core.types import CapabilityMetric, GenerateOptions, Sample, SampleRequest

Progress = Callable[[int, int], None]


class Answerer(Protocol):
    """A teacher or a student: whatever turns samples into outputs."""

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[Any]: ...


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The outcome of one evaluation, in the order and under the names of `nexus eval --json`."""

    target: str
    capability: str
    data: str
    metric: str
    direction: str
    score: float
    n: int
    ci95: tuple[float, float]
    seconds: float


@dataclass(frozen=True, slots=True)
class Answers:
    """Samples with their outputs and scores, for whoever wants to look at them one by one."""

    samples: Sequence[Sample]
    outputs: Sequence[Any]
    scores: Sequence[float]


def draw(metric: CapabilityMetric, request: SampleRequest) -> list[Sample]:
    """The samples of `request`, at most n; none at all is an error."""
    samples = list(itertools.islice(metric.samples(request), request.n))
    if not samples:
        raise DataError(
            f"capability {metric.name} has no {request.split.value} samples in {request.data or 'its own data'}",
            "check --data, or leave it out to use the pack's own samples",
        )
    return samples


def evaluate(
    target: str,
    answerer: Answerer,
    metric: CapabilityMetric,
    request: SampleRequest,
    batch_size: int | None = None,
    progress: Progress = lambda done, total: None,
) -> tuple[Evaluation, Answers]:
    """Ask, score, and put an interval on it. Samples are batched by length; the outcome is in their drawn order."""
    samples = draw(metric, request)
    options = metric.options if batch_size is None else replace(metric.options, batch_size=batch_size)
    started = time.monotonic()
    outputs = ask(answerer, samples, options, progress)
    scores = metric.score_all(samples, outputs)
    answers = Answers(samples, outputs, scores)
    return summarise(target, metric, request, answers, time.monotonic() - started), answers


def summarise(
    target: str, metric: CapabilityMetric, request: SampleRequest, answers: Answers, seconds: float
) -> Evaluation:
    """One line of the table."""
    return Evaluation(
        target=target,
        capability=metric.name,
        data=request.data or "generated",
        metric=metric.metric,
        direction=metric.direction.value,
        score=metric.aggregate(answers.samples, answers.scores),
        n=len(answers.samples),
        ci95=score_interval(metric, answers.samples, answers.scores, request.seed),
        seconds=round(seconds, 3),
    )


def ask(answerer: Answerer, samples: Sequence[Sample], options: GenerateOptions, progress: Progress) -> list[Any]:
    """Outputs in the order of the samples, which are batched by length."""
    order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
    outputs: dict[int, Any] = {}
    for start in range(0, len(order), options.batch_size):
        chosen = order[start : start + options.batch_size]
        outputs.update(zip(chosen, answerer.generate([samples[i] for i in chosen], options), strict=True))
        progress(len(outputs), len(samples))
    return [outputs[i] for i in range(len(samples))]
