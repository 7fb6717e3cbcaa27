"""Turn checked raw rows into the frozen registry."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from nexus_core.registry.model import (
    CapabilityRow,
    Defaults,
    Fate,
    GateSettings,
    ProfilingSettings,
    Registry,
    TeacherRow,
    TowerRow,
)
from nexus_core.registry.sources import Merged, RawRow
from nexus_core.types import Direction, Thresholds


def build_registry(merged: Merged) -> Registry:
    """The registry of rows that have passed every check."""
    assert merged.project is not None
    return Registry(
        path=merged.project.document.path,
        defaults=_defaults(merged.defaults),
        towers=MappingProxyType({row.id: _tower(row) for row in merged.each("towers")}),
        capabilities=MappingProxyType({row.id: _capability(merged, row) for row in merged.each("capabilities")}),
        teachers=MappingProxyType({row.id: _teacher(row) for row in merged.each("teachers")}),
        profiling_settings=_profiling(merged.project.document.data.get("profiling")),
        gate_settings=_gate(merged.project.document.data.get("gate")),
    )


def _defaults(data: dict[str, Any]) -> Defaults:
    return Defaults(
        retain_fraction={Direction(name): value for name, value in data["retain_fraction"].items()},
        rank_caps={int(tier): data["rank_caps"][row["rank_cap"]] for tier, row in data["tiers"].items()},
    )


def _profiling(data: dict[str, Any] | None) -> ProfilingSettings | None:
    if data is None:
        return None
    plain = {name: value for name, value in data.items() if not isinstance(value, dict)}
    nested = {f"{name}_{key}": value for name in ("components", "loss_weight") for key, value in data[name].items()}
    return ProfilingSettings(sample_sizes=MappingProxyType(data["sample_sizes"]), **plain, **nested)


def _gate(data: dict[str, Any] | None) -> GateSettings | None:
    return None if data is None else GateSettings(**data)


def _tower(row: RawRow) -> TowerRow:
    return TowerRow(row.id, row.data["latent_max"], row.data["description"], row.origin)


def _capability(merged: Merged, row: RawRow) -> CapabilityRow:
    data = row.data
    thresholds = data["thresholds"]
    if isinstance(thresholds, str):
        thresholds = merged.defaults["thresholds"][thresholds]
    return CapabilityRow(
        id=row.id,
        tier=data["tier"],
        tower=data["tower"],
        description=data["description"],
        thresholds=Thresholds(**thresholds),
        contract=MappingProxyType(data["contract"]),
        origin=row.origin,
        also_towers=tuple(data.get("also_towers", ())),
        aliases=tuple(data.get("aliases", ())),
        isolated=data.get("isolated", False),
    )


def _teacher(row: RawRow) -> TeacherRow:
    data = dict(row.data)
    data["capabilities"] = tuple(data["capabilities"])
    data["contracts"] = MappingProxyType(data.get("contracts", {}))
    if "fate" in data:
        data["fate"] = Fate(**data["fate"])
    return TeacherRow(id=row.id, origin=row.origin, **data)
