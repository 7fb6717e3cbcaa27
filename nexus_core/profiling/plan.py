"""From what was measured to what the student must hold: adapter ranks, reserved channels, loss weights, anchor limits.

The rank of an adapter is a number of directions, never of neurons: as many as the reconstruction check needed to keep the
metric. It is at least the number of non-negotiable components, each of which has a channel of its own, and so never below
their intrinsic dimension (the fewest that hold `variance_fraction` of their variance); and at most what the contract allows.
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
    """One adapter site. `k` is the size of the stored basis, `needed` what the reconstruction check asks for (None: it
    was not made, or never passed). `non_negotiable` counts the `proven` components and those that are so by caution.
    `max_anchor_error` is the noise inside the protected space that the metric is known to bear; None: not measured.
    """

    block: str
    index: int
    k: int
    non_negotiable: int
    proven: int
    intrinsic_dimension: int
    needed: int | None
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

    `special_handling` is not empty when the measurements do not carry the plan, and says what to do first.
    """

    teacher: str
    capability: str
    weights_hash: str
    variance_fraction: float
    rank_cap: int
    blocks: tuple[BlockPlan, ...]
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
    return CapabilityPlan(
        teacher=profile.teacher,
        capability=profile.capability,
        weights_hash=profile.weights_hash,
        variance_fraction=settings.variance_fraction,
        rank_cap=contract.rank_cap,
        blocks=tuple(_block(block, profile, contract.rank_cap, settings, weight) for block in profile.blocks),
        special_handling="; ".join(_special(profile)),
    )


def _special(profile: CapabilityProfile) -> list[str]:
    """Why the measurements do not carry a plan yet."""
    tried = ", ".join(block.block for block in profile.blocks) or "no block"
    cautious = sum(len(block.non_negotiable) for block in profile.blocks)
    found = []
    if not cautious:
        found.append(
            f"no non-negotiable component was measured ({tried}): use more samples, other blocks or perturbations"
        )
    elif not any(block.proven for block in profile.blocks):
        found.append(f"no component is proven non-negotiable ({tried}), {cautious} by caution alone: use more samples")
    for block in profile.blocks:
        checks = _checks(profile, block.block)
        if checks and not checks[-1].passed:
            found.append(f"{block.block}: {_never_passed(checks)}: use more components, or another block")
    if any(not check.passed for check in _checks(profile, None)):
        found.append("the blocks keep the metric one by one, not all at once: use fewer blocks, or keep more of each")
    return found


def _checks(profile: CapabilityProfile, block: str | None) -> list[ReconstructionResult]:
    """The reconstruction checks of one block (None: of all at once), in the order in which they were made.

    The last one is of the kept set, on the verification samples: it alone says whether that set suffices. An earlier one
    may have passed on the samples that the set was sought on.
    """
    return [check for check in profile.reconstruction if check.block == block]


def _never_passed(checks: Sequence[ReconstructionResult]) -> str:
    last = checks[-1]
    return (
        f"the reconstruction check never passed (the last, of {last.k} directions, loses {last.drop:.4g}; "
        f"allowed is less than {last.max_drop:.4g})"
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
    found = block.non_negotiable
    dimension = smallest_k([component.variance_fraction for component in found], settings.variance_fraction)
    checks = _checks(profile, block.block)
    needed = block.pca.k if checks and checks[-1].passed else None
    wanted = max(dimension, len(found), needed or 0)
    rank = min(wanted, cap)
    costliest = sorted(found, key=lambda component: (-component.drop, component.index))
    return BlockPlan(
        block=block.block,
        index=block.index,
        k=block.pca.k,
        non_negotiable=len(found),
        proven=len(block.proven),
        intrinsic_dimension=dimension,
        needed=needed,
        rank=rank,
        slots=tuple(Slot(i, c.index, c.drop, weight(c.drop)) for i, c in enumerate(costliest[:rank])),
        max_anchor_error=block.tolerance,
        reasons=(
            *_component_reasons(block, dimension, settings.variance_fraction),
            *_check_reasons(block, checks),
            *_cap_reasons(wanted, rank, costliest),
            *_anchor_reasons(block),
        ),
    )


def _component_reasons(block: BlockProfile, dimension: int, fraction: float) -> list[str]:
    count, proven = len(block.non_negotiable), len(block.proven)
    if not count:
        tried = f"{len(block.components)} components tested" if block.components else "no component tested"
        note = f": {block.note}" if block.note else ""
        return [f"no non-negotiable component found, {tried}{note}"]
    reasons = [
        f"{dimension} of {count} non-negotiable components hold {fraction:.0%} of their variance",
        f"{proven} proven non-negotiable, {count - proven} by caution",
    ]
    if proven:
        reasons.append(
            "each proven component, or the group that it was tested in, costs the capability when it is lost"
        )
    if proven < count:
        reasons.append("by caution: the interval decided no class, and did not exclude this one")
    return reasons


def _check_reasons(block: BlockProfile, checks: Sequence[ReconstructionResult]) -> list[str]:
    """Whether the kept directions suffice, and what fewer of them lost."""
    if not checks:
        return ["no reconstruction check: that these directions suffice is not known"]
    last = checks[-1]
    if not last.passed:
        return [_never_passed(checks)]
    fewest = [check for check in checks if check.k == checks[0].k][-1]
    if fewest.passed:
        reasons = [f"{fewest.k} directions alone keep the metric (they lose {fewest.drop:.2f})"]
    else:
        lost = f"{fewest.k} directions alone lose {fewest.drop:.2f}"
        reasons = [f"{lost}; {block.pca.k} are needed by the reconstruction check"]
    if last.undecided:
        reasons.append(
            f"the check is undecided: its drop may be {last.high:.4g}, allowed is less than {last.max_drop:.4g}"
        )
    return reasons


def _cap_reasons(wanted: int, rank: int, costliest: Sequence[ComponentResult]) -> list[str]:
    if wanted == rank:
        return []
    reasons = [f"capped: the contract allows rank {rank}, {wanted - rank} dimensions are given up"]
    if left := sorted(component.index for component in costliest[rank:]):
        names = ", ".join(map(str, left))
        reasons.append(
            f"channels for the {rank} costliest of {len(costliest)} non-negotiable components; left out: {names}"
        )
    return reasons


def _anchor_reasons(block: BlockProfile) -> list[str]:
    if block.tolerance is None:
        why = "no noise inside the protected space was tried" if block.pca.k else "nothing is protected here"
        return [f"no anchor limit: not measured: {why}"]
    if block.tolerance == 0:
        return ["anchor limit 0: even the least noise that was tried inside the protected space costs the metric"]
    return []


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
                "needed_by_reconstruction": block.needed,
                "non_negotiable": block.non_negotiable,
                "proven": block.proven,
                "reserved_channels": block.reserved_channels,
                "reasons": list(block.reasons),
            }
            for block in plan.blocks
        },
    }


def constraints_entry(plan: CapabilityPlan) -> dict[str, Any]:
    """For recovery_constraints.json: how far training may leave the teacher's coordinates, or null and why."""
    return {
        "weights_hash": plan.weights_hash,
        "layers": {
            str(block.index): {
                "block": block.block,
                "max_anchor_error": block.max_anchor_error,
                "reason": next((r for r in block.reasons if "anchor limit" in r), ""),
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
