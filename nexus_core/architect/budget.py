"""How large a student may be, from the preset and the sizes of its teachers, and whether a shape fits."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nexus_core.architect.presets import PARTS, Preset
from nexus_core.architect.sizes import Sizes
from nexus_core.errors import DataError
from nexus_core.registry import Registry, TeacherRow, resolve_path

MAX_HEADER = 100 << 20  # bytes: safetensors' own limit
_WRITTEN = re.compile(r"(\d+(?:\.\d+)?)\s*([KMBT])\b")
_UNIT = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` parameters in `part` ("total" or a part of Sizes), and where the number comes from."""

    part: str
    most: int
    why: str

    def used(self, sizes: Sizes) -> int:
        """How many of these parameters a student has."""
        return sizes.total if self.part == "total" else sizes.parts[self.part]


@dataclass(frozen=True, slots=True)
class Budget:
    """All limits; `reserve` is the share of those over adapters that stays free for an adapter that grows later."""

    limits: tuple[Limit, ...]
    reserve: float = 0.0

    def exceeded(self, sizes: Sizes, reserve: float = 0.0) -> tuple[Limit, int] | None:
        """The limit that is exceeded by most, and by how much; None when all hold."""
        worst: tuple[Limit, int] | None = None
        for limit in self.limits:
            kept = reserve if limit.part in ("adapters", "total") else 0.0
            over = limit.used(sizes) - int(limit.most * (1 - kept))
            if over > 0 and (worst is None or over > worst[1]):
                worst = limit, over
        return worst


def budget_of(preset: Preset, teachers: Mapping[str, int]) -> Budget:
    """The limits of a preset for a student of these teachers (parameters by id)."""
    rules = preset.budget
    limits = [
        Limit(part, most, f"the preset {preset.name} allows {most:,}")
        for part in PARTS
        if (most := getattr(rules, part)) is not None
    ]
    if rules.share_of_teachers is not None:
        everything = sum(teachers.values())
        why = f"{rules.share_of_teachers:g} of the {everything:,} parameters of its teachers ({', '.join(sorted(teachers))})"
        limits.append(Limit("total", int(rules.share_of_teachers * everything), why))
    if rules.within_largest_teacher:
        name, largest = max(sorted(teachers.items()), key=lambda item: item[1])
        limits.append(Limit("total", largest, f"the size of its largest teacher, {name}, {largest:,}"))
    return Budget(tuple(limits), rules.reserve)


def relative(preset: Preset) -> bool:
    """Whether the budget depends on how large the teachers are."""
    return preset.budget.share_of_teachers is not None or preset.budget.within_largest_teacher


def teacher_size(registry: Registry, teacher: str) -> int:
    """Parameters of a teacher: from the headers of its safetensors where it is present, else as its row says."""
    row = registry.teacher(teacher)
    path = resolve_path(row).path
    counted = None if path is None else checkpoint_size(path)
    return written_size(row) if counted is None else counted


def checkpoint_size(path: Path) -> int | None:
    """Parameters by the headers of a directory's safetensors; None where there are none."""
    shards = sorted(path.glob("*.safetensors")) if path.is_dir() else []
    return sum(_header_size(shard) for shard in shards) if shards else None


def written_size(row: TeacherRow) -> int:
    """What `parameters:` of a row says in words: "0.94M", "30B (MoE)"."""
    if (found := _WRITTEN.search(row.parameters)) is None:
        raise DataError(
            f'the size of teacher {row.id} is not known: its row says "{row.parameters}"',
            f"write its number of parameters, such as 1.7B, at {row.origin.path}:{row.origin.line}",
        )
    return round(float(found[1]) * _UNIT[found[2]])


def _header_size(shard: Path) -> int:
    """Numbers in a safetensors file, from its header alone."""
    try:
        with shard.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length <= min(MAX_HEADER, shard.stat().st_size):
                raise ValueError(f"a header of {length} bytes")
            header = json.loads(file.read(length))
        entries = [entry["shape"] for name, entry in header.items() if name != "__metadata__"]
        return sum(_product(shape) for shape in entries)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{shard} is damaged: {error}", f"download {shard.name} again") from error


def _product(shape: list[int]) -> int:
    result = 1
    for n in shape:
        if not isinstance(n, int) or n < 0:
            raise ValueError(f"a shape {shape!r}")
        result *= n
    return result
