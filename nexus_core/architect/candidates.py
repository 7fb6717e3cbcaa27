"""What stage 2 left, as the architect sees it: one candidate for each profile of a wanted capability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.registry import Registry
from nexus_core.student.arch import Decision
from nexus_core.suggest import did_you_mean
from nexus_core.types import Direction

CAPACITY = "adapter_capacity_plan.json"


@dataclass(frozen=True, slots=True)
class BlockNeed:
    """What one protected block of a teacher asks for. `wanted` is the rank before the contract's cap, if that bound."""

    block: str
    index: int
    rank: int
    wanted: int
    proven: int
    non_negotiable: int


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """A teacher that may own a capability's adapter. `depth` is the number of its blocks."""

    profile: CapabilityProfile
    needs: tuple[BlockNeed, ...]
    depth: int
    rank_cap: int
    special_handling: str

    @property
    def name(self) -> str:
        return f"{self.profile.teacher}/{self.profile.capability}"

    @property
    def proven(self) -> int:
        return sum(need.proven for need in self.needs)

    @property
    def standing(self) -> tuple[float, int]:
        """Larger is better: the baseline score, then what is proven."""
        sign = 1.0 if self.profile.direction is Direction.HIGHER else -1.0
        return sign * self.profile.baseline_score, self.proven


def profiled(store: ProfileStore) -> dict[str, list[str]]:
    """Teachers by capability."""
    found: dict[str, list[str]] = {}
    for teacher, capability in store.profiles():
        found.setdefault(capability, []).append(teacher)
    if not found:
        raise DataError(
            f"{store.root} has no profile", "profile a teacher first: nexus profile --teacher T --capability C"
        )
    return dict(sorted(found.items()))


def choose(
    registry: Registry, found: Mapping[str, Sequence[str]], asked: Iterable[str]
) -> tuple[tuple[str, ...], list[Decision]]:
    """The capabilities to plan: those asked for, or all that were profiled; what is left out, and why."""
    wanted = sorted({_capability(registry, name, found) for name in asked})
    planned, decisions = [], []
    for capability, teachers in found.items():
        if wanted and capability not in wanted:
            reason = f"not asked for: planned are {', '.join(wanted)}"
        elif not wanted and registry.capability(capability).isolated:
            reason = f"isolated: it is opt-in, by --capability {capability}"
        else:
            planned.append(capability)
            continue
        decisions += [Decision("drop", f"{teacher}/{capability}", reason) for teacher in teachers]
    return tuple(planned), decisions


def _capability(registry: Registry, name: str, found: Mapping[str, Sequence[str]]) -> str:
    known = [alias for row in registry.capabilities.values() for alias in (row.id, *row.aliases)]
    if name.replace("-", "_") not in known:
        raise UsageError(
            f'no capability "{name}" in {registry.path}{did_you_mean(name, known)}', f"profiled are: {', '.join(found)}"
        )
    row = registry.capability(name)
    if row.id not in found:
        teachers = ", ".join(teacher.id for teacher in registry.teachers_of(row.id)) or "none in the registry"
        raise DataError(
            f'"{row.id}" was not profiled in this run; profiled are: {", ".join(found)}',
            f"nexus profile --teacher T --capability {row.id} (its teachers: {teachers})",
        )
    return row.id


def read_candidates(
    store: ProfileStore, registry: Registry, capability: str, teachers: Sequence[str], weights: Mapping[str, str]
) -> list[Candidate]:
    """The profiles of one capability with their plans. A damaged one, or one of other weights, is an error."""
    plans = store.plan_documents()[CAPACITY].get("teachers", {})
    return [
        _candidate(
            store.read(teacher, capability, weights.get(teacher)), registry, plans.get(teacher, {}).get(capability)
        )
        for teacher in teachers
    ]


def _candidate(profile: CapabilityProfile, registry: Registry, plan: Any) -> Candidate:
    row = registry.teacher(profile.teacher)
    contract = registry.contract(profile.capability, row.id if profile.capability in row.capabilities else None)
    name = f"{profile.teacher}/{profile.capability}"
    depth = len(profile.pilot)
    if any(block.index >= depth for block in profile.blocks):
        raise DataError(
            f"{name}: the profile names block {max(b.index for b in profile.blocks)} and its pilot covers {depth} blocks",
            "profile this teacher again",
        )
    if not isinstance(plan, Mapping):
        raise DataError(f"{CAPACITY} has no plan of {name}", "profile this teacher again")
    try:
        needs = tuple(_need(index, entry) for index, entry in plan["layers"].items())
        stated = int(plan["rank_cap"]), str(plan["special_handling"]), str(plan["weights_hash"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(f"{CAPACITY}: {name}: {reason}", "profile this teacher again") from error
    if stated[2] != profile.weights_hash or {need.index for need in needs} != {block.index for block in profile.blocks}:
        raise DataError(f"{CAPACITY}: {name}: the plan is of another profile", "profile this teacher again")
    return Candidate(profile, tuple(sorted(needs, key=lambda n: n.index)), depth, contract.rank_cap, stated[1])


def _need(index: str, entry: Mapping[str, Any]) -> BlockNeed:
    rank = int(entry["rank"])
    wanted = max(rank, entry["intrinsic_dimension"], entry["non_negotiable"], entry["needed_by_reconstruction"] or 0)
    return BlockNeed(
        str(entry["block"]), int(index), rank, int(wanted), int(entry["proven"]), int(entry["non_negotiable"])
    )
