"""The score of a checkpoint on a capability's own samples, through the public seam."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.types import (
    CapabilityMetric,
    Category,
    Detection,
    LoadOptions,
    ModelSource,
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


def wilson(mean: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion; unlike a bootstrap it does not collapse to a point at 0 or 1."""
    centre, spread = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return round(max(0.0, (centre - spread) / scale), 4), round(min(1.0, (centre + spread) / scale), 4)


def score_teacher(teacher: Teacher, metric: CapabilityMetric, request: SampleRequest) -> Score:
    """The metric's value of greedy answers."""
    samples = list(metric.samples(request))
    mean = metric.aggregate(samples, metric.score_all(samples, teacher.generate(samples, metric.options)))
    return Score(round(mean, 4), len(samples), wilson(mean, len(samples)))


def score_checkpoint(path: Path, metric: CapabilityMetric, n: int, split: Split = Split.VERIFY) -> Score:
    """The metric's value of a saved checkpoint, loaded the way that a user loads it."""
    return score_teacher(load_checkpoint(path), metric, SampleRequest(split, n=n))


def load_checkpoint(path: Path) -> Teacher:
    """A checkpoint that may not have its card yet, and so is not detected."""
    model_type = str((read_config(path) or {}).get("model_type"))
    detection = Detection(Category.TRANSFORMERS, model_type, 1.0, "made by a recipe")
    return load_hf_teacher(ModelSource(path), LoadOptions(), detection)
