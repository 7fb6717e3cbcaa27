"""Recovery as a pure state machine: what is trouble, what follows from it, and how often at most."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace

import pytest

from nexus_core.distill.recovery import (
    Cause,
    DistillFailed,
    RecoveryState,
    Rollback,
    Watched,
    accept,
    anchor_factor,
    check,
    check_due,
    go_back,
    judge,
    judge_gradient,
    state_from,
)
from nexus_core.distill.settings import read_teaching

SETTINGS = replace(
    read_teaching("tiny").recovery,
    settle=5,
    spike_factor=3.0,
    spike_least=1.0,
    anchor_tolerance=0.1,
    anchor_least=0.02,
    anchor_decay=0.9,
    raise_anchor=1.2,
    cut_rate=0.5,
    heal_after=10,
    most_rollbacks=3,
    check_every=50,
    check_tolerance=0.1,
    repair_steps=4,
    repair_anchor=4.0,
)


NAME = "sums"


def settled(loss=1.0, anchor=0.5, steps=20):
    state = RecoveryState()
    for _ in range(steps):
        state = accept(state, Watched(loss, {NAME: anchor}), SETTINGS)
    return state


@pytest.mark.parametrize(
    "bad",
    [Watched(math.nan), Watched(math.inf), Watched(1.0, {NAME: math.nan}), Watched(1.0, {NAME: 0.1, "b": -math.inf})],
)
def test_what_is_not_finite_is_trouble_from_the_first_step(bad):
    assert judge(RecoveryState(), bad, SETTINGS).cause is Cause.LOSS_NOT_FINITE
    assert judge(settled(), bad, SETTINGS).cause is Cause.LOSS_NOT_FINITE


def test_a_gradient_that_is_not_finite_is_trouble():
    assert judge_gradient(math.nan).cause is Cause.GRADIENT_NOT_FINITE
    assert judge_gradient(math.inf).cause is Cause.GRADIENT_NOT_FINITE
    assert judge_gradient(1e9) is None


@pytest.mark.parametrize(
    ("average", "loss", "spike"),
    [
        (1.0, 3.01, True),  # the factor
        (1.0, 2.9, False),
        (0.01, 0.9, False),  # 90 times the average, and still small
        (0.01, 1.02, True),  # the least rise that counts
        (4.0, 11.0, False),
        (4.0, 12.1, True),
    ],
)
def test_a_spike_is_a_multiple_of_the_average_and_a_real_rise(average, loss, spike):
    trouble = judge(settled(average), Watched(loss, {NAME: 0.5}), SETTINGS)
    assert (trouble is not None) == spike
    assert trouble is None or trouble.cause is Cause.SPIKE


def test_before_the_averages_have_settled_nothing_is_a_spike():
    assert judge(settled(steps=4), Watched(1000.0, {NAME: 0.5}), SETTINGS) is None
    assert judge(settled(steps=5), Watched(1000.0, {NAME: 0.5}), SETTINGS) is not None


def test_a_sick_step_enters_no_average():
    state = settled()
    for _ in range(5):
        assert judge(state, Watched(100.0, {NAME: 0.5}), SETTINGS) is not None
        state = go_back(state, Rollback(1, 1, "x", ""), settled(), replace(SETTINGS, most_rollbacks=9))
    assert state.averages.loss == pytest.approx(1.0)


def test_anchor_error_ten_percent_over_its_baseline_is_drift():
    state = settled(anchor=0.5)
    assert judge(state, Watched(1.0, {NAME: 0.99}), SETTINGS) is None  # one step: the average moves to 0.549
    state = accept(state, Watched(1.0, {NAME: 0.99}), SETTINGS)
    assert judge(state, Watched(1.0, {NAME: 0.99}), SETTINGS).cause is Cause.DRIFT
    assert judge(state, Watched(1.0, {NAME: 0.5}), SETTINGS) is None


def test_drift_below_what_matters_is_none_and_neither_is_a_run_without_anchors():
    state = settled(anchor=0.001)
    assert judge(state, Watched(1.0, {NAME: 0.05}), SETTINGS) is None
    plain = RecoveryState()
    for _ in range(20):
        plain = accept(plain, Watched(1.0), SETTINGS)
    assert judge(plain, Watched(1.0), SETTINGS) is None
    assert not plain.averages.anchors


def test_going_back_raises_the_anchor_halves_the_rate_and_remembers():
    best, state = settled(2.0, 0.7), settled(1.0, 0.5)
    state = go_back(state, Rollback(30, 31, "loss spike", "7"), best, SETTINGS)
    assert (state.anchor_scale, state.rate_scale) == (1.2, 0.5)
    assert state.averages.loss == pytest.approx(2.0)
    assert state.averages.anchor(NAME).best == pytest.approx(0.7)  # of the weights that are in force again
    state = go_back(state, Rollback(40, 42, "loss spike", "8"), best, SETTINGS)
    assert (state.anchor_scale, state.rate_scale) == (pytest.approx(1.44), 0.25)
    assert [r.position for r in state.rollbacks] == [31, 42]


def test_a_rate_comes_back_after_health_and_the_anchor_stays_raised():
    state = settled()
    for position in (1, 2):
        state = go_back(state, Rollback(1, position, "x", ""), settled(), SETTINGS)
    rates = []
    for _ in range(30):
        state = accept(state, Watched(1.0, {NAME: 0.5}), SETTINGS)
        rates.append(state.rate_scale)
    assert (rates[8], rates[9], rates[18], rates[19], rates[29]) == (0.25, 0.5, 0.5, 1.0, 1.0)
    assert state.anchor_scale == pytest.approx(1.44)


def test_it_fails_after_a_bounded_number_of_rollbacks_and_lists_them():
    state = settled()
    for step in range(3):
        state = go_back(state, Rollback(step, step, "loss spike", f"loss {step}"), settled(), SETTINGS)
    with pytest.raises(DistillFailed, match="went back 3 times") as caught:
        go_back(state, Rollback(3, 3, "the gradient is not finite", "norm nan"), settled(), SETTINGS)
    assert "step 0: loss spike (loss 0)" in caught.value.message
    assert "step 3: the gradient is not finite (norm nan)" in caught.value.message
    assert "recovery.most_rollbacks" in caught.value.hint


def test_the_hard_check_is_due_every_so_many_steps():
    state = RecoveryState()
    assert [step for step in range(1, 160) if check_due(state, step, SETTINGS)] == [50, 100, 150]
    assert not check_due(state, 50, replace(SETTINGS, check_every=0))


def test_a_failed_check_repairs_and_is_made_again():
    state, trouble = check(settled(), 0.5, SETTINGS)
    assert (state.checked, state.repair_left, trouble) == (0.5, None, None)
    state, trouble = check(state, 0.549, SETTINGS)
    assert (state.checked, state.repair_left, trouble) == (0.5, None, None)
    state, trouble = check(state, 0.551, SETTINGS)
    assert (state.repair_left, trouble) == (4, None)
    assert anchor_factor(state, SETTINGS) == 4.0
    for _ in range(4):
        assert not check_due(state, 51, SETTINGS)
        state = accept(state, Watched(1.0, {NAME: 0.5}), SETTINGS)
    assert check_due(state, 55, SETTINGS)
    healed, trouble = check(state, 0.4, SETTINGS)
    assert (healed.checked, healed.repair_left, trouble) == (0.4, None, None)
    assert anchor_factor(healed, SETTINGS) == 1.0
    same, trouble = check(state, 0.6, SETTINGS)
    assert trouble.cause is Cause.REPAIR
    assert go_back(same, trouble.at(55, 60), settled(), SETTINGS).repair_left is None


def test_an_error_that_profiling_found_harmless_needs_no_repair():
    state, _ = check(settled(), 0.5, SETTINGS)
    assert check(state, 0.9, SETTINGS, harmless=True) == (state, None)


def test_a_state_survives_its_json():
    state = go_back(settled(), Rollback(1, 2, "x", "y"), settled(), SETTINGS)
    assert state_from(json.loads(json.dumps(asdict(state), allow_nan=False))) == state
    assert state_from(json.loads(json.dumps(asdict(RecoveryState()), allow_nan=False))) == RecoveryState()


def test_an_anchor_that_is_watched_late_starts_its_own_average():
    """While rows grow longer nothing is watched; those steps must not count as an error of zero."""
    state = RecoveryState()
    for _ in range(50):
        assert judge(state, Watched(1.0), SETTINGS) is None
        state = accept(state, Watched(1.0), SETTINGS)
    for _ in range(50):
        assert judge(state, Watched(1.0, {NAME: 0.3}), SETTINGS) is None
        state = accept(state, Watched(1.0, {NAME: 0.3}), SETTINGS)
    assert state.averages.anchor(NAME).best == pytest.approx(0.3)
    assert (state.averages.seen, state.averages.anchor(NAME).seen) == (100, 50)


def test_whose_turn_it_is_is_no_drift():
    """One capability is anchored twice as far off as another; the mean of a step follows who has more turns."""
    state = RecoveryState()
    for near, far in ((3, 1), (1, 3)):  # turns
        for _ in range(30):
            for watched in [Watched(1.0, {"near": 0.2})] * near + [Watched(1.0, {"far": 0.4})] * far:
                assert judge(state, watched, SETTINGS) is None
                state = accept(state, watched, SETTINGS)
    trouble = None
    while trouble is None:
        worse = Watched(1.0, {"near": 0.3})  # less than the other's level, and far over its own
        trouble = judge(state, worse, SETTINGS)
        state = accept(state, worse, SETTINGS)
    assert trouble.cause is Cause.DRIFT
    assert trouble.detail.startswith("near: ")
