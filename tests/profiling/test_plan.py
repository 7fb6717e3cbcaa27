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


def block(
    *components: ComponentResult, index: int = 3, note: str = "", kept: int = 0, tolerance: float | None = None
) -> BlockProfile:
    """Its stored basis holds the non-negotiable components, or the first `kept` where the check needed more."""
    keep = list(range(kept)) or [c.index for c in components if c.cls is KEEP]
    pca = PCA(np.zeros(128), np.eye(128)[keep], np.ones(len(keep)), 10.0, 99)
    coords, name = np.zeros((5, len(keep))), f"layers.{index}"
    return BlockProfile(
        *(name, index, 128, "mean", "all", pca, tuple(keep), coords, (0.5, 0.3), components, note, tolerance)
    )


def profile(*blocks: BlockProfile, checks: tuple[ReconstructionResult, ...] = ()) -> CapabilityProfile:
    return CapabilityProfile(
        *("ada", "hash", "math", "exact", Direction.HIGHER, 0.9, 50, 42, 1.0), blocks, reconstruction=checks
    )


def check(block: str | None, error: float, drop: float, k: int = 8) -> ReconstructionResult:
    return ReconstructionResult(block, k, 0.9 - drop, drop, 0.01, error, 50)


def costly(count: int) -> list[ComponentResult]:
    return [component(i, KEEP, 0.1 + i / 100, 0.1) for i in range(count)]


def only(*components: ComponentResult, cap: int = 512, note: str = "") -> BlockPlan:
    (found,) = plan_capability(profile(block(*components, note=note)), contract(cap), SETTINGS).blocks
    return found


def test_each_non_negotiable_component_has_its_channel_within_the_rank() -> None:
    """The 97 % are of the protected space's own variance: a strong component that costs nothing does not count."""
    found = only(
        component(0, DROP, 0.0, 0.80),
        component(1, KEEP, 0.30, 0.090),
        component(2, KEEP, 0.20, 0.060),
        component(3, MAYBE, 0.01, 0.040),
        component(4, KEEP, 0.05, 0.002),
    )
    assert (found.non_negotiable, found.proven, found.intrinsic_dimension, found.rank, found.k) == (3, 3, 2, 3, 3)
    assert found.reasons[:2] == (
        "2 of 3 non-negotiable components hold 97% of their variance",
        "3 proven non-negotiable, 0 by caution",
    )
    assert "no reconstruction check: that these directions suffice is not known" in found.reasons
    assert [slot.component for slot in found.slots] == [1, 2, 4]


def test_the_rank_is_what_the_reconstruction_check_needed() -> None:
    """18 directions that are costly one by one do not carry the capability alone: the check found that 72 do."""
    checks = tuple(check("layers.3", 0.1, drop, k) for k, drop in ((18, 0.998), (36, 0.2), (72, 0.004)))
    plan = plan_capability(profile(block(*costly(18), kept=72), checks=checks), contract(), SETTINGS)
    (found,) = plan.blocks
    assert (found.intrinsic_dimension, found.needed, found.rank, found.reserved_channels) == (18, 72, 72, 18)
    assert "18 directions alone lose 1.00; 72 are needed by the reconstruction check" in found.reasons
    layer = capacity_entry(plan)["layers"]["3"]
    assert (layer["rank"], layer["intrinsic_dimension"], layer["needed_by_reconstruction"]) == (72, 18, 72)
    assert plan.special_handling == ""


def test_components_that_suffice_at_once_need_no_more() -> None:
    checks = (check("layers.3", 0.1, 0.004, 18),)
    (found,) = plan_capability(profile(block(*costly(18)), checks=checks), contract(), SETTINGS).blocks
    assert (found.rank, found.needed) == (18, 18)
    assert "18 directions alone keep the metric (they lose 0.00)" in found.reasons
    assert not any("undecided" in reason for reason in found.reasons)


def test_a_check_that_never_passed_gives_no_size_and_asks_for_special_handling() -> None:
    checks = (check("layers.3", 0.1, 0.5, 4), check("layers.3", 0.1, 0.03, 128))
    plan = plan_capability(profile(block(*costly(4), kept=128), checks=checks), contract(), SETTINGS)
    (found,) = plan.blocks
    said = "the reconstruction check never passed (the last, of 128 directions, loses 0.03; allowed is less than 0.01)"
    assert (found.needed, found.rank) == (None, 4)
    assert said in found.reasons
    assert plan.special_handling == f"layers.3: {said}: use more components, or another block"


def test_only_the_last_check_says_whether_the_kept_set_suffices() -> None:
    """A set is sought on some samples and verified on others: what passes on the first may fail on the second."""
    tried = ((18, 0.004), (18, 0.3), (36, 0.002))
    checks = tuple(check("layers.3", 0.1, drop, k) for k, drop in tried)
    failed = plan_capability(profile(block(*costly(18), kept=36), checks=(*checks, checks[1])), contract(), SETTINGS)
    assert failed.blocks[0].needed is None
    assert "never passed" in failed.special_handling
    plan = plan_capability(profile(block(*costly(18), kept=36), checks=(*checks, checks[2])), contract(), SETTINGS)
    assert plan.blocks[0].rank == 36
    assert "18 directions alone lose 0.30; 36 are needed by the reconstruction check" in plan.blocks[0].reasons


def test_a_check_at_the_limit_itself_has_not_passed() -> None:
    plan = plan_capability(profile(block(*costly(1)), checks=(check("layers.3", 0.4, 0.01),)), contract(), SETTINGS)
    assert "never passed" in plan.special_handling


def test_an_undecided_check_is_said() -> None:
    unsure = replace(check("layers.3", 0.1, 0.004, 4), low=-0.01, high=0.05)
    (found,) = plan_capability(profile(block(*costly(4)), checks=(unsure,)), contract(), SETTINGS).blocks
    assert "the check is undecided: its drop may be 0.05, allowed is less than 0.01" in found.reasons


def test_blocks_that_keep_the_metric_only_one_by_one_ask_for_special_handling() -> None:
    checks = (check("layers.3", 0.1, 0.0), check(None, 0.1, 0.2))
    plan = plan_capability(profile(block(*costly(8)), checks=checks), contract(), SETTINGS)
    assert plan.special_handling.startswith("the blocks keep the metric one by one, not all at once")


@given(
    st.lists(st.floats(0.001, 1.0), min_size=1, max_size=30),
    st.integers(1, 80),
    st.floats(0.1, 1.0),
    st.integers(0, 60),
    st.booleans(),
)
def test_the_rank_holds_the_channels_the_dimension_and_what_the_check_needed(
    shares: list[float], cap: int, fraction: float, more: int, passed: bool
) -> None:
    components = [component(i, KEEP, 0.1, share) for i, share in enumerate(shares)]
    kept = len(shares) + more
    one = profile(block(*components, kept=kept), checks=(check("layers.3", 0.1, 0.0 if passed else 0.5, kept),))
    (found,) = plan_capability(one, contract(cap), PlanSettings(fraction, 5, 10)).blocks
    assert found.rank == min(kept if passed else len(shares), cap)
    assert found.rank >= min(found.intrinsic_dimension, cap)
    assert found.reserved_channels == min(len(shares), cap) <= found.rank
    ordered = sorted(shares, reverse=True)
    assert sum(ordered[: found.intrinsic_dimension]) >= fraction * sum(shares) * (1 - 1e-9)
    assert found.intrinsic_dimension == 1 or sum(ordered[: found.intrinsic_dimension - 1]) < fraction * sum(shares)


def test_the_cap_is_said_and_what_it_leaves_out() -> None:
    found = only(*costly(10), cap=4)
    assert (found.intrinsic_dimension, found.rank, found.reserved_channels) == (10, 4, 4)
    assert "capped: the contract allows rank 4, 6 dimensions are given up" in found.reasons
    left = "channels for the 4 costliest of 10 non-negotiable components; left out: 0, 1, 2, 3, 4, 5"
    assert left in found.reasons
    assert [slot.component for slot in found.slots] == [9, 8, 7, 6], "what costs most keeps its channel"


def test_a_cap_below_what_the_check_needed_leaves_no_channel_out_that_fits() -> None:
    one = profile(block(*costly(4), kept=20), checks=(check("layers.3", 0.1, 0.0, 20),))
    (found,) = plan_capability(one, contract(6), SETTINGS).blocks
    assert (found.rank, found.reserved_channels) == (6, 4)
    assert "capped: the contract allows rank 6, 14 dimensions are given up" in found.reasons
    assert not any("left out" in reason for reason in found.reasons)


def test_what_is_protected_by_caution_is_not_called_proven() -> None:
    cautious = [component(i, KEEP, 0.0, 0.1, undecided=True) for i in range(3)]
    mixed = plan_capability(profile(block(*cautious, component(3, KEEP, 0.3, 0.1))), contract(), SETTINGS)
    (found,) = mixed.blocks
    assert (found.proven, found.non_negotiable, found.reserved_channels) == (1, 4, 4)
    assert "1 proven non-negotiable, 3 by caution" in found.reasons
    assert any("costs the capability" in reason for reason in found.reasons)
    assert mixed.special_handling == ""
    unproven = plan_capability(profile(block(*cautious)), contract(), SETTINGS)
    assert "0 proven non-negotiable, 3 by caution" in unproven.blocks[0].reasons
    assert not any("costs the capability" in reason for reason in unproven.blocks[0].reasons)
    assert unproven.special_handling == (
        "no component is proven non-negotiable (layers.3), 3 by caution alone: use more samples"
    )
    assert (capacity_entry(mixed)["layers"]["3"]["proven"], capacity_entry(unproven)["layers"]["3"]["proven"]) == (1, 0)


def test_nothing_found_is_said_and_asks_for_special_handling() -> None:
    tried = "5000 samples, three kinds of noise"
    quiet = block(component(0, DROP, 0.0, 0.5), component(1, MAYBE, 0.01, 0.3), note=tried)
    plan = plan_capability(profile(quiet), contract(), SETTINGS)
    (found,) = plan.blocks
    assert (found.rank, found.intrinsic_dimension, found.k, found.slots) == (0, 0, 0, ())
    assert found.reasons[0] == f"no non-negotiable component found, 2 components tested: {tried}"
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


def test_weights_compare_components_of_all_blocks() -> None:
    plan = plan_capability(
        profile(block(component(0, KEEP, 0.52, 0.1), index=1), block(component(0, KEEP, 0.27, 0.1), index=2)),
        contract(),
        SETTINGS,
    )
    assert [found.slots[0].loss_weight for found in plan.blocks] == pytest.approx([10, 7.5])


def test_the_anchor_limit_is_the_noise_that_the_metric_was_measured_to_bear() -> None:
    measured, unmeasured = block(*costly(2), index=3, tolerance=0.05), block(*costly(2), index=4)
    # What the kept directions leave out of the whole output (0.4) says nothing of errors inside them.
    checks = (check("layers.3", 0.4, 0.0, 2), check("layers.4", 0.4, 0.0, 2))
    plan = plan_capability(profile(measured, unmeasured, checks=checks), contract(), SETTINGS)
    assert [found.max_anchor_error for found in plan.blocks] == [0.05, None]
    reason = "no anchor limit: not measured: no noise inside the protected space was tried"
    layers = constraints_entry(plan)["layers"]
    assert layers["3"] == {"block": "layers.3", "max_anchor_error": 0.05, "reason": ""}
    assert layers["4"] == {"block": "layers.4", "max_anchor_error": None, "reason": reason}


def test_a_metric_that_bears_no_noise_at_all_has_a_limit_and_a_reason() -> None:
    plan = plan_capability(profile(block(*costly(2), tolerance=0.0)), contract(), SETTINGS)
    assert constraints_entry(plan)["layers"]["3"] == {
        "block": "layers.3",
        "max_anchor_error": 0.0,
        "reason": "anchor limit 0: even the least noise that was tried inside the protected space costs the metric",
    }


def test_where_nothing_is_protected_there_is_nothing_to_anchor() -> None:
    plan = plan_capability(profile(block(component(0, DROP, 0.0, 0.1))), contract(), SETTINGS)
    assert (
        constraints_entry(plan)["layers"]["3"]["reason"] == "no anchor limit: not measured: nothing is protected here"
    )


def test_documents_say_what_the_plan_says() -> None:
    plan = plan_capability(
        profile(block(component(2, KEEP, 0.1, 0.1), component(5, KEEP, 0.3, 0.2))), contract(), SETTINGS
    )
    assert capacity_entry(plan)["layers"]["3"] == {
        "block": "layers.3",
        "rank": 2,
        "intrinsic_dimension": 2,
        "needed_by_reconstruction": None,
        "non_negotiable": 2,
        "proven": 2,
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
