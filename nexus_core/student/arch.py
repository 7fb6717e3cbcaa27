"""`student_arch.json`: what the architect decided, as frozen values that anything which builds a student reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from nexus_core.atomic import write_atomic
from nexus_core.errors import DataError
from nexus_core.suggest import did_you_mean

VERSION = 1
ARCH = "student_arch.json"
ACTIONS = ("keep", "map", "cap", "merge", "drop", "add")
Part = TypeVar("Part")


@dataclass(frozen=True, slots=True)
class Site:
    """An anchored bottleneck of `rank` channels after student block `block`, held to `teacher_block`'s coordinates."""

    block: int
    rank: int
    teacher_block: str


@dataclass(frozen=True, slots=True)
class AdapterArch:
    """The adapter of one capability: its sites, and low-rank deltas beside them (`delta_rank` 0: none)."""

    capability: str
    tower: str
    teacher: str
    sites: tuple[Site, ...]
    delta_rank: int
    delta_targets: tuple[str, ...]
    isolated: bool = False


@dataclass(frozen=True, slots=True)
class TowerArch:
    """One modality. `thought_tokens` 0: what it hears comes in as tokens of the backbone, and it needs no port."""

    name: str
    latent_size: int
    thought_tokens: int = 0
    port_blocks: tuple[int, ...] = ()
    port_heads: int = 0
    port_head_dim: int = 0
    feature_size: int = 0


@dataclass(frozen=True, slots=True)
class RouterArch:
    """Classes in order; `buckets` of hashed features, embedded in `width` numbers; at most `most` adapters at once."""

    classes: tuple[str, ...]
    buckets: int
    width: int
    most: int


@dataclass(frozen=True, slots=True)
class Decision:
    """One thing that the architect decided (`action` is one of ACTIONS) about `subject`, and why."""

    action: str
    subject: str
    reason: str


@dataclass(frozen=True, slots=True)
class StudentArch:
    """The whole student. `backbone` are the arguments of its configuration; `backbone_source` is "random" or where its
    first weights come from: a registry id or a path."""

    version: int
    preset: str
    seed: int
    backbone: Mapping[str, Any]
    backbone_source: str
    adapters: tuple[AdapterArch, ...]
    towers: tuple[TowerArch, ...]
    router: RouterArch
    decisions: tuple[Decision, ...]

    def adapter(self, capability: str) -> AdapterArch:
        """The adapter of one capability."""
        found = next((a for a in self.adapters if a.capability == capability), None)
        if found is None:
            names = [a.capability for a in self.adapters]
            near = did_you_mean(capability, names)
            listed = ", ".join(names) or "none"
            raise DataError(f'the student has no adapter for "{capability}"{near}', f"planned are: {listed}")
        return found


def write_arch(path: Path, arch: StudentArch) -> None:
    """Write it whole or not at all; the same decisions give the same bytes."""
    write_atomic(path, (json.dumps(asdict(arch), indent=2, sort_keys=True) + "\n").encode())


def read_arch(path: Path) -> StudentArch:
    """Read it strictly: a key that is missing or not known is an error that names it."""
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "run `nexus architect` first") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}", "run `nexus architect` again") from error
    return arch_from(raw, str(path))


def arch_from(raw: Any, where: str) -> StudentArch:
    """The same from parsed JSON."""
    top = _known(raw, StudentArch, where)
    if top["version"] != VERSION:
        raise DataError(f"{where}: version {top['version']!r} is not known", f"this Nexus writes version {VERSION}")
    decisions = _parts(top["decisions"], Decision, f"{where}: decisions")
    if wrong := [d.action for d in decisions if d.action not in ACTIONS]:
        raise DataError(f"{where}: a decision has the action {wrong[0]!r}", f"known are: {', '.join(ACTIONS)}")
    adapters = tuple(adapter_from(a, f"{where}: adapters[{i}]") for i, a in enumerate(_list(top["adapters"], where)))
    return StudentArch(
        **{
            **top,
            "adapters": adapters,
            "towers": tuple(tower_from(t, f"{where}: towers[{i}]") for i, t in enumerate(_list(top["towers"], where))),
            "router": _build(top["router"], RouterArch, f"{where}: router", "classes"),
            "decisions": decisions,
        }
    )


def adapter_from(raw: Any, where: str) -> AdapterArch:
    """One adapter from parsed JSON."""
    values = _known(raw, AdapterArch, where)
    values["sites"] = _parts(values["sites"], Site, f"{where}.sites")
    values["delta_targets"] = tuple(values["delta_targets"])
    return AdapterArch(**values)


def tower_from(raw: Any, where: str) -> TowerArch:
    """One tower from parsed JSON."""
    return _build(raw, TowerArch, where, "port_blocks")


def _parts(raw: Any, cls: type[Part], where: str) -> tuple[Part, ...]:
    return tuple(_build(item, cls, f"{where}[{i}]") for i, item in enumerate(_list(raw, where)))


def _list(raw: Any, where: str) -> list[Any]:
    if not isinstance(raw, list | tuple):
        raise DataError(f"{where}: expected a list, found {type(raw).__name__}", "run `nexus architect` again")
    return list(raw)


def _build(raw: Any, cls: type[Part], where: str, *tuples: str) -> Part:
    values = _known(raw, cls, where)
    return cls(**{**values, **{name: tuple(_list(values[name], f"{where}.{name}")) for name in tuples}})


def _known(raw: Any, cls: type, where: str) -> dict[str, Any]:
    names = [f.name for f in fields(cls)]
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected an object, found {type(raw).__name__}", "run `nexus architect` again")
    if unknown := sorted(set(raw) - set(names)):
        raise DataError(f"{where}: unknown key {unknown[0]!r}", f"known keys: {', '.join(names)}")
    if missing := [name for name in names if name not in raw]:
        raise DataError(f"{where}: the key {missing[0]!r} is missing", "run `nexus architect` again")
    return dict(raw)
