"""Presets: the shapes of students, as data. The comments in presets.yaml say what each number means."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from nexus_core.errors import DataError, UsageError
from nexus_core.suggest import did_you_mean

PARTS = ("backbone", "adapters", "router", "total")


@dataclass(frozen=True, slots=True)
class AdapterPreset:
    """Limits of an adapter: `rank_most` of a bottleneck, and the range of the rank of its deltas."""

    rank_most: int
    delta_targets: tuple[str, ...]
    delta_least: int
    delta_most: int


@dataclass(frozen=True, slots=True)
class TowerPreset:
    """How a modality reaches the backbone; without thought tokens it needs no port."""

    thought_tokens: int
    feature_size: int = 0
    port_every: int = 0
    port_heads: int = 0
    port_head_dim: int = 0


@dataclass(frozen=True, slots=True)
class RouterPreset:
    """Size of the router, and at most how many adapters it chooses at once."""

    buckets: int
    width: int
    most: int


@dataclass(frozen=True, slots=True)
class BudgetPreset:
    """Upper limits, in parameters or as a share of the teachers'; None where there is none."""

    share_of_teachers: float | None = None
    within_largest_teacher: bool = False
    backbone: int | None = None
    adapters: int | None = None
    router: int | None = None
    total: int | None = None
    reserve: float = 0.0


@dataclass(frozen=True, slots=True)
class Preset:
    """One shape. Either `source` names the checkpoint whose configuration the backbone has, or `config` is that."""

    name: str
    description: str
    source: str | None
    config: Mapping[str, Any] | None
    adapters: AdapterPreset
    towers: Mapping[str, TowerPreset]
    router: RouterPreset
    budget: BudgetPreset


@dataclass(frozen=True, slots=True)
class Presets:
    """A whole file of presets, and the two numbers that all of them share."""

    path: str
    tower_latent_factor: float
    compare_weights_up_to: int
    presets: Mapping[str, Preset] = field(default_factory=dict)

    def preset(self, name: str) -> Preset:
        """The preset called `name`."""
        if name not in self.presets:
            known = ", ".join(self.presets)
            raise UsageError(f'no preset "{name}" in {self.path}{did_you_mean(name, self.presets)}', f"known: {known}")
        return self.presets[name]


def load_presets(path: Path | None = None) -> Presets:
    """The presets that ship with Nexus, or those of a file."""
    source = files("nexus_core.architect").joinpath("presets.yaml") if path is None else path
    name = "presets.yaml" if path is None else str(path)
    try:
        raw = yaml.safe_load(source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{name} cannot be read: {' '.join(str(error).split())}", "give a file of presets") from error
    _check(raw, name)
    presets = {key: _preset(key, row) for key, row in raw["presets"].items()}
    return Presets(name, float(raw["tower_latent_factor"]), int(raw["compare_weights_up_to"]), presets)


def _check(raw: Any, name: str) -> None:
    from jsonschema import Draft202012Validator

    schema = json.loads(files("nexus_core.architect").joinpath("presets_schema.json").read_text("utf-8"))
    errors = sorted(Draft202012Validator(schema).iter_errors(raw), key=lambda e: list(map(str, e.absolute_path)))
    if errors:
        where = ".".join(map(str, errors[0].absolute_path)) or "the file"
        raise DataError(f"{name}: {where}: {errors[0].message[:300]}", "compare with the presets that ship with Nexus")
    for key, row in raw["presets"].items():
        least, most = row["adapters"]["delta_rank"]["least"], row["adapters"]["delta_rank"]["most"]
        if least > most:
            raise DataError(
                f"{name}: presets.{key}.adapters.delta_rank: least {least} is above most {most}", "swap them"
            )


def _preset(name: str, row: Mapping[str, Any]) -> Preset:
    adapters, limits = row["adapters"], row["budget"]
    budget: dict[str, Any] = {key: int(value) if key in PARTS else value for key, value in limits.items()}
    return Preset(
        name=name,
        description=row["description"],
        source=row["backbone"].get("source"),
        config=row["backbone"].get("config"),
        adapters=AdapterPreset(
            rank_most=adapters["rank_most"],
            delta_targets=tuple(adapters["delta_targets"]),
            delta_least=adapters["delta_rank"]["least"] if adapters["delta_targets"] else 0,
            delta_most=adapters["delta_rank"]["most"] if adapters["delta_targets"] else 0,
        ),
        towers={key: _tower(tower) for key, tower in row["towers"].items()},
        router=RouterPreset(**row["router"]),
        budget=BudgetPreset(**budget),
    )


def _tower(row: Mapping[str, Any]) -> TowerPreset:
    if row["thought_tokens"] == 0:
        return TowerPreset(0)
    ports = row["ports"]
    return TowerPreset(row["thought_tokens"], row["feature_size"], ports["every"], ports["heads"], ports["head_dim"])
