"""The score of a checkpoint on a capability's own samples, through the public seam."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.stats import score_interval
from nexus_core.types import (
    CapabilityMetric,
    Category,
    Detection,
    LoadOptions,
    ModelSource,
    Sample,
    SampleRequest,
    Split,
    Teacher,
)


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value over `n` samples and its 95 % interval."""

    value: float
    n: int
    ci95: tuple[float, float]

    def as_data(self) -> dict[str, Any]:
        """As plain YAML values."""
        return {**asdict(self), "ci95": list(self.ci95)}


def score_of(metric: CapabilityMetric, samples: Sequence[Sample], scores: Sequence[float], seed: int = 42) -> Score:
    """The metric's value with the interval that `nexus eval` prints."""
    low, high = score_interval(metric, samples, scores, seed)
    return Score(round(metric.aggregate(samples, scores), 4), len(scores), (round(low, 4), round(high, 4)))


def interval_again(metric: CapabilityMetric, value: float, n: int) -> tuple[float, float]:
    """The interval of a figure that stands on a card: so many of `n` answers were right, the others wrong."""
    right = round(value * n)
    assert abs(right / n - value) < 1e-4, f"{value} is no share of {n} answers"
    return score_of(metric, [], [1.0] * right + [0.0] * (n - right)).ci95


def score_teacher(teacher: Teacher, metric: CapabilityMetric, request: SampleRequest) -> Score:
    """The metric's value of greedy answers."""
    samples = list(metric.samples(request))
    scores = metric.score_all(samples, teacher.generate(samples, metric.options))
    return score_of(metric, samples, scores, request.seed)


def score_checkpoint(path: Path, metric: CapabilityMetric, n: int, split: Split = Split.VERIFY) -> Score:
    """The metric's value of a saved checkpoint, loaded the way that a user loads it."""
    return score_teacher(load_checkpoint(path), metric, SampleRequest(split, n=n))


def load_checkpoint(path: Path) -> Teacher:
    """A checkpoint that may not have its card yet, and so is not detected."""
    model_type = str((read_config(path) or {}).get("model_type"))
    detection = Detection(Category.TRANSFORMERS, model_type, 1.0, "made by a recipe")
    return load_hf_teacher(ModelSource(path), LoadOptions(), detection)
