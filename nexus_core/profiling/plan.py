"""From what was measured to what the student must hold: adapter ranks, reserved channels, loss weights, anchor limits.

The rank of an adapter is the intrinsic dimension of the non-negotiable space, never a number of neurons: the fewest
components that hold `variance_fraction` of that space's own variance, and at most what the contract allows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nexus_core.errors import NexusError
from nexus_core.profiling.model import BlockProfile, CapabilityProfile, ComponentResult, ReconstructionResult
from nexus_core.profiling.pca import smallest_k
from nexus_core.registry import ProfilingSettings
from nexus_core.types import Contract

ContractOf = Callable[[str, str], Contract]
"""`Registry.contract`: the contract of (capability, teacher)."""


@dataclass(frozen=True, slots=True)
class PlanSettings:
    """The numbers of registry.yaml that a plan depends on."""

    variance_fraction: float
    loss_weight_least: float
    loss_weight_most: float

    @classmethod
    def of(cls, settings: ProfilingSettings) -> PlanSettings:
        return cls(settings.variance_fraction, settings.loss_weight_least, settings.loss_weight_most)


@dataclass(frozen=True, slots=True)
class Slot:
    """One adapter channel, reserved for one non-negotiable component; its anchor loss is multiplied by `loss_weight`."""

    slot: int
    component: int
    drop: float
    loss_weight: float


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """One adapter site. `k` is the size of the stored basis; `max_anchor_error` is None when no check gave one."""

    block: str
    index: int
    k: int
    non_negotiable: int
    intrinsic_dimension: int
    rank: int
    slots: tuple[Slot, ...]
    max_anchor_error: float | None
    reasons: tuple[str, ...]

    @property
    def reserved_channels(self) -> int:
        return len(self.slots)


@dataclass(frozen=True, slots=True)
class CapabilityPlan:
    """What one teacher's profile of one capability asks of the student.

    `special_handling` is not empty when no adapter can be planned yet, and says what to measure instead.
    `joint_anchor_error` is the limit that held with all blocks replaced at once.
    """

    teacher: str
    capability: str
    weights_hash: str
    variance_fraction: float
    rank_cap: int
    blocks: tuple[BlockPlan, ...]
    joint_anchor_error: float | None
    special_handling: str = ""


def capacity_plan(
    profiles: Iterable[CapabilityProfile], contract_of: ContractOf, settings: PlanSettings
) -> tuple[CapabilityPlan, ...]:
    """A plan for each profile, under the contract that its teacher has for its capability."""
    return tuple(
        plan_capability(profile, contract_of(profile.capability, profile.teacher), settings) for profile in profiles
    )


def plan_capability(profile: CapabilityProfile, contract: Contract, settings: PlanSettings) -> CapabilityPlan:
    """The plan of one profile."""
    if contract.capability != profile.capability:
        raise NexusError(
            f'the profile is of "{profile.capability}", the contract of "{contract.capability}"',
            "take the contract from Registry.contract(profile.capability, profile.teacher)",
        )
    costs = [component.drop for block in profile.blocks for component in block.non_negotiable]
    weight = _loss_weight(contract.thresholds.non_negotiable, max(costs, default=0.0), settings)
    special = ""
    if not costs:
        tried = ", ".join(block.block for block in profile.blocks) or "no block"
        special = f"no non-negotiable component was measured ({tried}): use more samples, other blocks or perturbations"
    return CapabilityPlan(
        teacher=profile.teacher,
        capability=profile.capability,
        weights_hash=profile.weights_hash,
        variance_fraction=settings.variance_fraction,
        rank_cap=contract.rank_cap,
        blocks=tuple(_block(block, profile, contract.rank_cap, settings, weight) for block in profile.blocks),
        joint_anchor_error=_anchor_error(profile.reconstruction, None),
        special_handling=special,
    )


def _loss_weight(threshold: float, largest: float, settings: PlanSettings) -> Callable[[float], float]:
    """From the least weight at the threshold to the most at the capability's costliest component, linear in the drop."""
    least, most = settings.loss_weight_least, settings.loss_weight_most

    def weight(drop: float) -> float:
        span = largest - threshold
        share = (drop - threshold) / span if span > 0 else 0.0
        return least + (most - least) * min(1.0, max(0.0, share))

    return weight


def _block(
    block: BlockProfile, profile: CapabilityProfile, cap: int, settings: PlanSettings, weight: Callable[[float], float]
) -> BlockPlan:
    needed = block.non_negotiable
    dimension = smallest_k([component.variance_fraction for component in needed], settings.variance_fraction)
    costliest = sorted(needed, key=lambda component: (-component.drop, component.index))[:cap]
    error = _anchor_error(profile.reconstruction, block.block)
    return BlockPlan(
        block=block.block,
        index=block.index,
        k=block.pca.k,
        non_negotiable=len(needed),
        intrinsic_dimension=dimension,
        rank=min(dimension, cap),
        slots=tuple(Slot(i, c.index, c.drop, weight(c.drop)) for i, c in enumerate(costliest)),
        max_anchor_error=error,
        reasons=(
            *_rank_reasons(block, needed, dimension, cap, settings.variance_fraction),
            *_anchor_reasons(profile.reconstruction, block.block, error),
        ),
    )


def _rank_reasons(
    block: BlockProfile, needed: Sequence[ComponentResult], dimension: int, cap: int, fraction: float
) -> list[str]:
    if not needed:
        tried = f"{len(block.components)} components tested" if block.components else "no component tested"
        note = f": {block.note}" if block.note else ""
        return [f"rank 0: no non-negotiable component found, {tried}{note}"]
    count = len(needed)
    reasons = [f"{dimension} of {count} non-negotiable components hold {fraction:.0%} of their variance"]
    if dimension > cap:
        reasons.append(f"capped: the contract allows rank {cap}, {dimension - cap} dimensions are given up")
    if count > cap:
        reasons.append(f"channels for {cap} of {count} non-negotiable components: the contract allows no more")
    elif count > dimension:
        reasons.append(f"each of the {count} components costs the capability when it is lost: reserve {count} channels")
    if undecided := sum(component.undecided for component in needed):
        reasons.append(f"{undecided} of {count} are non-negotiable by caution: their intervals decided no class")
    return reasons


def _anchor_error(checks: Sequence[ReconstructionResult], block: str | None) -> float | None:
    """The largest error at which the metric still held: an anchor that is as near is known to be near enough."""
    return max((check.anchor_error for check in checks if check.block == block and check.passed), default=None)


def _anchor_reasons(checks: Sequence[ReconstructionResult], block: str, error: float | None) -> list[str]:
    if error is not None:
        return []
    drops = [check.drop for check in checks if check.block == block]
    if not drops:
        return ["no anchor limit: this block was not reconstructed alone"]
    return [f"no anchor limit: no reconstruction kept the metric (the best lost {min(drops):.4g})"]


# --- as documents -----------------------------------------------------------------------------------------------


def protected_entry(plan: CapabilityPlan) -> dict[str, int]:
    """For protected_subspaces.json: the size of the stored basis of each layer, also where it is 0."""
    return {str(block.index): block.k for block in plan.blocks}


def capacity_entry(plan: CapabilityPlan) -> dict[str, Any]:
    """For adapter_capacity_plan.json."""
    return {
        "weights_hash": plan.weights_hash,
        "variance_fraction": plan.variance_fraction,
        "rank_cap": plan.rank_cap,
        "special_handling": plan.special_handling,
        "layers": {
            str(block.index): {
                "block": block.block,
                "rank": block.rank,
                "intrinsic_dimension": block.intrinsic_dimension,
                "non_negotiable": block.non_negotiable,
                "reserved_channels": block.reserved_channels,
                "reasons": list(block.reasons),
            }
            for block in plan.blocks
        },
    }


def constraints_entry(plan: CapabilityPlan) -> dict[str, Any]:
    """For recovery_constraints.json: how far training may leave the teacher's coordinates, measured, or null."""
    return {
        "weights_hash": plan.weights_hash,
        "joint_max_anchor_error": plan.joint_anchor_error,
        "layers": {
            str(block.index): {
                "block": block.block,
                "max_anchor_error": block.max_anchor_error,
                "reason": next((r for r in block.reasons if r.startswith("no anchor limit")), ""),
            }
            for block in plan.blocks
        },
    }


def micro_preservation(plan: CapabilityPlan) -> Mapping[str, Any]:
    """For micro_preservation_plan/<teacher>/<capability>.yaml: which channel holds which component, at which weight."""
    return {
        "teacher": plan.teacher,
        "capability": plan.capability,
        "weights_hash": plan.weights_hash,
        "special_handling": plan.special_handling,
        "layers": {
            str(block.index): {
                "block": block.block,
                "reserved_channels": block.reserved_channels,
                "slots": [
                    {"slot": s.slot, "component": s.component, "drop": s.drop, "loss_weight": s.loss_weight}
                    for s in block.slots
                ],
            }
            for block in plan.blocks
        },
    }
