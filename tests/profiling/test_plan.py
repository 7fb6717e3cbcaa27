"""From measured components to ranks, channels, weights and limits. What was not found is not planned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus_core.errors import NexusError
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    ReconstructionResult,
)
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.plan import (
    BlockPlan,
    PlanSettings,
    capacity_entry,
    capacity_plan,
    constraints_entry,
    micro_preservation,
    plan_capability,
    protected_entry,
)
from nexus_core.registry import load_registry
from nexus_core.resources import shared_path
from nexus_core.types import Contract, Direction, Thresholds

SETTINGS = PlanSettings(variance_fraction=0.97, loss_weight_least=5, loss_weight_most=10)
KEEP, MAYBE, DROP = ComponentClass.NON_NEGOTIABLE, ComponentClass.RECOVERABLE, ComponentClass.DISCARDABLE


def contract(rank_cap: int = 512, capability: str = "math") -> Contract:
    return Contract(capability, "pack", "exact", Direction.HIGHER, 0.97, None, 1, rank_cap, Thresholds(0.02, 0.005))


def component(index: int, cls: ComponentClass, drop: float, share: float, undecided: bool = False) -> ComponentResult:
    return ComponentResult(index, cls, drop, drop - 0.01, drop + 0.01, 50, share, None, undecided)


def block(*components: ComponentResult, index: int = 3, note: str = "") -> BlockProfile:
    kept = [c.index for c in components if c.cls is KEEP]
    pca = PCA(np.zeros(32), np.eye(32)[kept], np.ones(len(kept)), 10.0, 99)
    coords = np.zeros((5, len(kept)))
    return BlockProfile(
        f"layers.{index}", index, 32, "mean", "all", pca, tuple(kept), coords, (0.5, 0.3), components, note
    )


def profile(*blocks: BlockProfile, checks: tuple[ReconstructionResult, ...] = ()) -> CapabilityProfile:
    return CapabilityProfile(
        *("ada", "hash", "math", "exact", Direction.HIGHER, 0.9, 50, 42, 1.0), blocks, reconstruction=checks
    )


def only(*components: ComponentResult, cap: int = 512, note: str = "") -> BlockPlan:
    (found,) = plan_capability(profile(block(*components, note=note)), contract(cap), SETTINGS).blocks
    return found


def test_the_rank_is_the_intrinsic_dimension_of_the_non_negotiable_space_alone() -> None:
    """A strong component that costs nothing does not count: the 97 % are of the protected space's own variance."""
    found = only(
        component(0, DROP, 0.0, 0.80),
        component(1, KEEP, 0.30, 0.090),
        component(2, KEEP, 0.20, 0.060),
        component(3, MAYBE, 0.01, 0.040),
        component(4, KEEP, 0.05, 0.002),
    )
    assert (found.non_negotiable, found.intrinsic_dimension, found.rank, found.k) == (3, 2, 2, 3)
    assert "2 of 3 non-negotiable components hold 97% of their variance" in found.reasons
    assert "each of the 3 components costs the capability when it is lost: reserve 3 channels" in found.reasons
    assert [slot.component for slot in found.slots] == [1, 2, 4]


@given(st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30), st.integers(1, 40), st.floats(0.1, 1.0))
def test_rank_is_never_above_the_dimension_the_cap_or_what_is_needed(shares: list[float], cap: int, f: float) -> None:
    components = [component(i, KEEP, 0.1, share) for i, share in enumerate(shares)]
    (found,) = plan_capability(profile(block(*components[:30])), contract(cap), PlanSettings(f, 5, 10)).blocks
    assert found.rank == min(found.intrinsic_dimension, cap)
    ordered = sorted(shares, reverse=True)
    assert sum(ordered[: found.intrinsic_dimension]) >= f * sum(shares) * (1 - 1e-9)
    assert found.intrinsic_dimension == 1 or sum(ordered[: found.intrinsic_dimension - 1]) < f * sum(shares)
    assert found.reserved_channels == min(len(shares), cap)


def test_the_cap_is_said() -> None:
    found = only(*[component(i, KEEP, 0.1 + i / 100, 0.1) for i in range(10)], cap=4)
    assert (found.intrinsic_dimension, found.rank, found.reserved_channels) == (10, 4, 4)
    assert "capped: the contract allows rank 4, 6 dimensions are given up" in found.reasons
    assert "channels for 4 of 10 non-negotiable components: the contract allows no more" in found.reasons
    assert [slot.component for slot in found.slots] == [9, 8, 7, 6], "what costs most keeps its channel"


def test_nothing_found_is_said_and_asks_for_special_handling() -> None:
    tried = "5000 samples, three kinds of noise"
    quiet = block(component(0, DROP, 0.0, 0.5), component(1, MAYBE, 0.01, 0.3), note=tried)
    plan = plan_capability(profile(quiet), contract(), SETTINGS)
    (found,) = plan.blocks
    assert (found.rank, found.intrinsic_dimension, found.k, found.slots) == (0, 0, 0, ())
    assert found.reasons[0] == f"rank 0: no non-negotiable component found, 2 components tested: {tried}"
    assert plan.special_handling.startswith("no non-negotiable component was measured (layers.3)")
    assert protected_entry(plan) == {"3": 0}
    assert capacity_entry(plan)["special_handling"] == plan.special_handling
    assert plan_capability(profile(), contract(), SETTINGS).special_handling.startswith(
        "no non-negotiable component was measured (no block)"
    )


def test_one_block_with_a_finding_is_enough() -> None:
    plan = plan_capability(
        profile(block(component(0, DROP, 0, 0.1), index=1), block(component(0, KEEP, 0.1, 0.1), index=2)),
        contract(),
        SETTINGS,
    )
    assert plan.special_handling == ""
    assert [found.rank for found in plan.blocks] == [0, 1]


def test_loss_weights_go_from_the_threshold_to_the_costliest_component() -> None:
    found = only(
        component(0, KEEP, 0.02, 0.1),
        component(1, KEEP, 0.12, 0.1),
        component(2, KEEP, 0.22, 0.1),
        component(3, KEEP, 0.01, 0.1, undecided=True),  # kept by caution, below the threshold
    )
    assert [(slot.slot, slot.component) for slot in found.slots] == [(0, 2), (1, 1), (2, 0), (3, 3)]
    assert [slot.loss_weight for slot in found.slots] == pytest.approx([10, 7.5, 5, 5])
    assert "1 of 4 are non-negotiable by caution: their intervals decided no class" in found.reasons


def test_weights_compare_components_of_all_blocks() -> None:
    plan = plan_capability(
        profile(block(component(0, KEEP, 0.52, 0.1), index=1), block(component(0, KEEP, 0.27, 0.1), index=2)),
        contract(),
        SETTINGS,
    )
    assert [found.slots[0].loss_weight for found in plan.blocks] == pytest.approx([10, 7.5])


def check(block: str | None, error: float, drop: float, k: int = 8) -> ReconstructionResult:
    return ReconstructionResult(block, k, 0.9 - drop, drop, 0.01, error, 50)


def test_the_anchor_limit_is_the_largest_error_that_kept_the_metric() -> None:
    checks = (
        check("layers.3", 0.4, 0.05, k=4),
        check("layers.3", 0.2, 0.005, k=8),
        check("layers.3", 0.1, 0.0, k=16),
        check("layers.9", 0.9, 0.0),
        check(None, 0.15, 0.002),
    )
    plan = plan_capability(profile(block(component(0, KEEP, 0.1, 0.1)), checks=checks), contract(), SETTINGS)
    assert (plan.blocks[0].max_anchor_error, plan.joint_anchor_error) == (0.2, 0.15)
    entry = constraints_entry(plan)
    assert entry["layers"]["3"] == {"block": "layers.3", "max_anchor_error": 0.2, "reason": ""}
    assert entry["joint_max_anchor_error"] == 0.15


@pytest.mark.parametrize(
    ("checks", "reason"),
    [
        ((), "no anchor limit: this block was not reconstructed alone"),
        (
            (check("layers.3", 0.4, 0.05), check("layers.3", 0.3, 0.03)),
            "no anchor limit: no reconstruction kept the metric (the best lost 0.03)",
        ),
        ((check("layers.3", 0.4, 0.01),), "no anchor limit: no reconstruction kept the metric (the best lost 0.01)"),
    ],
)
def test_without_a_passed_check_there_is_no_limit_but_a_reason(
    checks: tuple[ReconstructionResult, ...], reason: str
) -> None:
    plan = plan_capability(profile(block(component(0, KEEP, 0.1, 0.1)), checks=checks), contract(), SETTINGS)
    assert plan.blocks[0].max_anchor_error is None
    assert reason in plan.blocks[0].reasons
    assert constraints_entry(plan)["layers"]["3"]["reason"] == reason


def test_documents_say_what_the_plan_says() -> None:
    plan = plan_capability(
        profile(block(component(2, KEEP, 0.1, 0.1), component(5, KEEP, 0.3, 0.2))), contract(), SETTINGS
    )
    assert capacity_entry(plan)["layers"]["3"] == {
        "block": "layers.3",
        "rank": 2,
        "intrinsic_dimension": 2,
        "non_negotiable": 2,
        "reserved_channels": 2,
        "reasons": list(plan.blocks[0].reasons),
    }
    assert (capacity_entry(plan)["rank_cap"], capacity_entry(plan)["variance_fraction"]) == (512, 0.97)
    slots = micro_preservation(plan)["layers"]["3"]["slots"]
    assert [(s["slot"], s["component"], s["drop"]) for s in slots] == [(0, 5, 0.3), (1, 2, 0.1)]


def test_each_profile_is_planned_under_the_contract_of_its_teacher() -> None:
    profiles = [profile(block(*[component(i, KEEP, 0.1, 0.1) for i in range(6)]))]
    profiles.append(replace(profiles[0], teacher="bob"))
    asked: list[tuple[str, str]] = []

    def contract_of(capability: str, teacher: str) -> Contract:
        asked.append((capability, teacher))
        return contract(rank_cap=2 if teacher == "bob" else 512)

    plans = capacity_plan(profiles, contract_of, SETTINGS)
    assert asked == [("math", "ada"), ("math", "bob")]
    assert [plan.blocks[0].rank for plan in plans] == [6, 2]


def test_a_contract_of_another_capability_is_refused() -> None:
    with pytest.raises(NexusError, match='the profile is of "math", the contract of "code"'):
        plan_capability(profile(), contract(capability="code"), SETTINGS)


def test_the_numbers_come_from_the_registry() -> None:
    registry = load_registry(shared_path("registry.yaml"))
    assert PlanSettings.of(registry.profiling) == SETTINGS
    of_glm = replace(profile(block(component(0, KEEP, 0.1, 0.1))), teacher="zai-org-glm-4.7-flash")
    (plan,) = capacity_plan([of_glm], registry.contract, PlanSettings.of(registry.profiling))
    assert (plan.rank_cap, plan.variance_fraction) == (512, 0.97)
