"""The registry as frozen values: rows of towers, capabilities and teachers, and the contracts they make."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nexus_core.errors import RegistryError
from nexus_core.suggest import did_you_mean
from nexus_core.types import Contract, Direction, Thresholds

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a row was read: `owner` is "registry", or the name of the plugin that ships the file."""

    owner: str
    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a contract falls back to: retain fraction by direction, rank cap by tier."""

    retain_fraction: Mapping[Direction, float]
    rank_caps: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class ProfilingSettings:
    """How stage 2 measures. The comments in registry.yaml say what each number means."""

    samples: int
    sample_sizes: Mapping[str, int]
    pilot_samples: int
    verify_samples: int
    layers: int
    components_most: int
    components_middle: int
    components_tested: int
    attention_heads: int
    drill: int
    variance_fraction: float
    reconstruction_max_drop: float
    overlap_heavy: float
    loss_weight_least: float
    loss_weight_most: float


@dataclass(frozen=True, slots=True)
class GateSettings:
    """How much stage 5 asks. The comments in registry.yaml say what each number means."""

    samples: int
    resamples: int
    attempts: int
    control_samples: int
    alone: int
    batch_equal: float
    minutes: float


@dataclass(frozen=True, slots=True)
class TowerRow:
    """One modality; `latent_max` is the upper bound of its latent size."""

    id: str
    latent_max: int
    description: str
    origin: Origin


@dataclass(frozen=True, slots=True)
class CapabilityRow:
    """One capability. `tower` owns it, `also_towers` take part; `contract` holds only what the row itself says."""

    id: str
    tier: int
    tower: str
    description: str
    thresholds: Thresholds
    contract: Mapping[str, Any]
    origin: Origin
    also_towers: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class Fate:
    """Why a teacher of the registry teaches nothing: `action` is "drop", or "merge" `into` another teacher."""

    action: str
    reason: str
    into: str = ""

    def __str__(self) -> str:
        return f"merged into {self.into}: {self.reason}" if self.into else f"dropped: {self.reason}"


@dataclass(frozen=True, slots=True)
class TeacherRow:
    """One teacher, in the wording of the CSV. `contracts` holds what it asks beyond the capabilities' own contracts.

    `role` is "teacher", or for a checkpoint that teaches no capability "backbone" (students may start from it) or
    "interpretability" (it explains protected subspaces).
    """

    id: str
    name: str
    parameters: str
    category: str
    best_feature: str
    tower: str | None
    capabilities: tuple[str, ...]
    origin: Origin
    source: str | None = None
    contracts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    path: str | None = None
    license: str = ""
    notes: str = ""
    role: str = "teacher"
    mode: str | None = None
    unmapped: bool = False
    fate: Fate | None = None

    @property
    def refinement(self) -> bool:
        """Whether this is a super-teacher: added alone, after a bundle has passed."""
        return self.category == "refinement"


class Presence(NamedTuple):
    """Where a teacher's files are, or why they are not."""

    path: Path | None
    reason: str

    @property
    def present(self) -> bool:
        return self.path is not None


@dataclass(frozen=True, slots=True)
class Registry:
    """All rows, of registry.yaml and of the plugins' fragments, checked against each other."""

    path: Path
    defaults: Defaults
    towers: Mapping[str, TowerRow]
    capabilities: Mapping[str, CapabilityRow]
    teachers: Mapping[str, TeacherRow]
    profiling_settings: ProfilingSettings | None = None
    gate_settings: GateSettings | None = None

    @property
    def profiling(self) -> ProfilingSettings:
        """How stage 2 measures; a registry that only evaluates may leave the section out."""
        return _section(self.profiling_settings, "profiling", self.path)

    @property
    def gate(self) -> GateSettings:
        """How much stage 5 asks, and of the teacher in stage 2."""
        return _section(self.gate_settings, "gate", self.path)

    def tower(self, name: str) -> TowerRow:
        """The tower called `name`."""
        return self.towers[_known(name, self.towers, "tower", self.path)]

    def capability(self, name: str) -> CapabilityRow:
        """The capability called `name`, or by an alias of it; `vision-qa` and `vision_qa` are one name."""
        wanted = name.replace("-", "_")
        by_name = {alias: row for row in self.capabilities.values() for alias in (*row.aliases, row.id)}
        return by_name[_known(wanted, by_name, "capability", self.path)]

    def teacher(self, teacher_id: str) -> TeacherRow:
        """The teacher with this id."""
        return self.teachers[_known(teacher_id, self.teachers, "teacher", self.path)]

    def teachers_of(self, capability: str) -> tuple[TeacherRow, ...]:
        """The teachers that carry a capability, in the order of the file."""
        wanted = self.capability(capability).id
        return tuple(row for row in self.teachers.values() if wanted in row.capabilities)

    def contract(self, capability: str, teacher_id: str | None = None) -> Contract:
        """What the student must keep of `capability`, as this teacher's row changes it."""
        row = self.capability(capability)
        override: Mapping[str, Any] = {}
        if teacher_id is not None:
            teacher = self.teacher(teacher_id)
            if row.id not in teacher.capabilities:
                raise RegistryError(
                    f'teacher "{teacher.id}" does not carry capability "{row.id}" in {self.path}',
                    f"it carries: {', '.join(teacher.capabilities) or 'none'}",
                )
            override = teacher.contracts.get(row.id, {})
        return make_contract(self.defaults, row, override)


def make_contract(defaults: Defaults, row: CapabilityRow, override: Mapping[str, Any]) -> Contract:
    """Lay a teacher's override over the capability's contract, and that over the defaults."""
    merged = {**row.contract, **override}
    direction = Direction(merged["direction"])
    return Contract(
        capability=row.id,
        benchmark=merged["benchmark"],
        metric=merged["metric"],
        direction=direction,
        retain_fraction=merged.get("retain_fraction", defaults.retain_fraction[direction]),
        minimum=merged.get("minimum"),
        tier=row.tier,
        rank_cap=merged.get("rank_cap", defaults.rank_caps[row.tier]),
        thresholds=row.thresholds,
        relative_to=merged.get("relative_to", "teacher"),
    )


def _section(settings: T | None, name: str, path: Path) -> T:
    if settings is None:
        raise RegistryError(f'{path} has no section "{name}"', "copy it from the registry.yaml that ships with Nexus")
    return settings


def _known(name: str, known: Iterable[str], kind: str, path: Path) -> str:
    names = sorted(known)
    if name in names:
        return name
    raise RegistryError(
        f'no {kind} "{name}" in {path}{did_you_mean(name, names)}', f"known: {', '.join(names) or 'none'}"
    )
