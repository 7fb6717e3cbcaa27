"""A teacher's card: what it does, how well on held-out samples, against which controls, and how it was made."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from nexus_core.types import CapabilityMetric, SampleRequest, Split
from nexus_teacher_zoo.recipes.control import baseline_scores, memorisation_control
from nexus_teacher_zoo.recipes.corpus import corpus_loss
from nexus_teacher_zoo.recipes.evaluate import Score, score_checkpoint
from nexus_teacher_zoo.recipes.recipe import Recipe
from nexus_teacher_zoo.recipes.text import capability_of

TEXT_CAPABILITIES = ("reasoning", "math", "code", "tools", "long_context")


def write_card(recipe: Recipe, out: Path, steps: int, minutes: float) -> str:
    """Measure the saved checkpoint on the verify split and write `card.yaml` beside it; returns its text."""
    card: dict[str, Any] = {
        "id": f"zoo-{recipe.name}",
        "task": recipe.task,
        "data": recipe.data,
        "layout": recipe.config.removesuffix("Config"),
        "parameters": _parameters(out),
        "license": recipe.license,
        "made_by": {
            "command": f"python -m nexus_teacher_zoo.recipes.train {recipe.name} --steps {steps}",
            "seed": recipe.seed,
            "steps": steps,
            "training_minutes": minutes,
            "initialisation": "random",
        },
    }
    if recipe.capability:
        card["held_out"] = _held_out(recipe, out, capability_of(recipe.capability))
    else:
        card["held_out"] = corpus_loss(out)
        card["capabilities"] = _ignorance(out)
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110)
    (out / "card.yaml").write_text(text, "utf-8")
    return text


def _held_out(recipe: Recipe, out: Path, metric: CapabilityMetric) -> dict[str, Any]:
    request = SampleRequest(Split.VERIFY, n=recipe.verify_samples)
    return {
        "capability": recipe.capability,
        "metric": metric.metric,
        "direction": metric.direction.value,
        "split": "verify",
        **as_data(score_checkpoint(out, metric, recipe.verify_samples)),
        "baselines": baseline_scores(metric, request),
        "memorisation_control": memorisation_control(metric, request, recipe.control_samples),
    }


def _ignorance(out: Path, n: int = 100) -> dict[str, Any]:
    """A backbone's scores on every text capability, beside the random baseline: it should know none."""
    scores = {}
    for name in TEXT_CAPABILITIES:
        metric, request = capability_of(name), SampleRequest(Split.VERIFY, n=n)
        scores[name] = {**as_data(score_checkpoint(out, metric, n)), "baselines": baseline_scores(metric, request)}
    return scores


def as_data(score: Score) -> dict[str, Any]:
    """A score as plain YAML values."""
    return {**asdict(score), "ci95": list(score.ci95)}


def _parameters(out: Path) -> int:
    from math import prod

    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as tensors:
        return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
