"""`student_arch.json`: what the architect decided, as frozen values that anything which builds a student reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic
from nexus_core.errors import DataError
from nexus_core.strict import read_strict
from nexus_core.suggest import did_you_mean

VERSION = 1
ARCH = "student_arch.json"
AGAIN = "run `nexus architect` again"
ACTIONS = ("keep", "map", "cap", "merge", "drop", "add")


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
        raise DataError(f"{path} is no JSON: {error}", AGAIN) from error
    return arch_from(raw, str(path))


def arch_from(raw: Any, where: str) -> StudentArch:
    """The same from parsed JSON."""
    if isinstance(raw, Mapping) and raw.get("version", VERSION) != VERSION:
        raise DataError(f"{where}: version {raw['version']!r} is not known", f"this Nexus writes version {VERSION}")
    arch = read_strict(raw, StudentArch, where, AGAIN)
    if wrong := [d.action for d in arch.decisions if d.action not in ACTIONS]:
        raise DataError(f"{where}: a decision has the action {wrong[0]!r}", f"known are: {', '.join(ACTIONS)}")
    return arch
