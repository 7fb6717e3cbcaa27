"""A teacher's card: what it does, how well on held-out samples, against which controls, and how it was made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import yaml

from nexus_core.types import CapabilityMetric, SampleRequest, Split
from nexus_teacher_zoo.cards import read_card
from nexus_teacher_zoo.recipes.control import baseline_scores, memorisation_control
from nexus_teacher_zoo.recipes.corpus import corpus_loss
from nexus_teacher_zoo.recipes.evaluate import interval_again, score_checkpoint
from nexus_teacher_zoo.recipes.recipe import WEIGHTS, Recipe, load_recipe
from nexus_teacher_zoo.recipes.text import capability_of

TEXT_CAPABILITIES = ("reasoning", "math", "code", "tools", "long_context")


def write_card(recipe: Recipe, out: Path, made_by: dict[str, Any]) -> str:
    """Measure the saved checkpoint on the verify split and write `card.yaml` beside it; returns its text."""
    card: dict[str, Any] = {
        "id": f"zoo-{recipe.name}",
        "task": recipe.task,
        "data": recipe.data,
        "layout": recipe.config.removesuffix("Config"),
        "parameters": _parameters(out),
        "license": recipe.license,
        "made_by": made_by,
    }
    if recipe.capability:
        card["held_out"] = _held_out(recipe, out, capability_of(recipe.capability))
    else:
        card["held_out"] = corpus_loss(out)
        card["capabilities"] = _ignorance(out)
    return _dump(card, out)


def provenance(recipe: Recipe, steps: int, minutes: float, limit: float | None = None) -> dict[str, Any]:
    """How a checkpoint came to be: `steps` taken in `minutes`. Under a time `limit` the schedule follows the clock."""
    asked = f"{steps}" if limit is None else f"{recipe.training.steps} --minutes {limit:g}"
    return {
        "command": f"python -m nexus_teacher_zoo.recipes train {recipe.name} --steps {asked}",
        "seed": recipe.seed,
        "steps": steps,
        "training_minutes": round(minutes, 1),
        "initialisation": recipe.training.start,
    }


def _held_out(recipe: Recipe, out: Path, metric: CapabilityMetric) -> dict[str, Any]:
    return {
        "capability": recipe.capability,
        "metric": metric.metric,
        "direction": metric.direction.value,
        "split": "verify",
        **score_checkpoint(out, metric, recipe.verify_samples).as_data(),
        **_controls(recipe, metric),
    }


def _controls(recipe: Recipe, metric: CapabilityMetric) -> dict[str, Any]:
    """What needs no checkpoint."""
    request = SampleRequest(Split.VERIFY, n=recipe.verify_samples)
    memory = memorisation_control(metric, request, recipe.control_samples)
    note = {"note": recipe.control_note} if recipe.control_note else {}
    return {"baselines": baseline_scores(metric, request), "memorisation_control": {**memory, **note}}


def refreshed(recipe: Recipe, card: dict[str, Any]) -> dict[str, Any]:
    """A card with its controls measured again, and the intervals of the figures that it states; no model is asked."""
    if not recipe.capability:
        known = {name: {**found, **_interval(name, found)} for name, found in card["capabilities"].items()}
        return {**card, "capabilities": known}
    held = {**card["held_out"], **_interval(recipe.capability, card["held_out"])}
    return {**card, "held_out": {**held, **_controls(recipe, capability_of(recipe.capability))}}


def _interval(capability: str, found: dict[str, Any]) -> dict[str, Any]:
    return {"ci95": list(interval_again(capability_of(capability), found["value"], found["n"]))}


def _dump(card: dict[str, Any], out: Path) -> str:
    text = yaml.safe_dump(card, sort_keys=False, allow_unicode=True, width=110)
    (out / "card.yaml").write_text(text, "utf-8")
    return text


def _ignorance(out: Path, n: int = 100) -> dict[str, Any]:
    """A backbone's scores on every text capability, beside the baselines: it should know none."""
    scores = {}
    for name in TEXT_CAPABILITIES:
        metric, request = capability_of(name), SampleRequest(Split.VERIFY, n=n)
        scores[name] = {**score_checkpoint(out, metric, n).as_data(), "baselines": baseline_scores(metric, request)}
    return scores


def _parameters(out: Path) -> int:
    from math import prod

    from safetensors import safe_open

    with safe_open(out / "model.safetensors", "pt") as tensors:
        return sum(prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118


@click.command()
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path, exists=True), help="The checkpoint (default: the zoo's weights)."
)
@click.option("--controls", is_flag=True, help="Only the controls and the intervals; no model is asked.")
def card(name: str, out: Path | None, controls: bool) -> None:
    """Measure the checkpoint NAME again and rewrite its card."""
    recipe = load_recipe(name)
    path = out or WEIGHTS / recipe.name
    old = read_card(path)
    if old is None:
        raise click.UsageError(f"{path} has no card: train it with: python -m nexus_teacher_zoo.recipes train {name}")
    click.echo(_dump(refreshed(recipe, old), path) if controls else write_card(recipe, path, old["made_by"]))
