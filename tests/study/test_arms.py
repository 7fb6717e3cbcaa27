"""The arms: what each turns off, that all have the same steps, and what cannot be meant in their file."""

from __future__ import annotations

from dataclasses import replace

import pytest
import yaml

from nexus_core.distill.recovery import Anchored, Averages, RecoveryState, Watched, check_due, judge
from nexus_core.distill.settings import PhaseSettings, read_teaching
from nexus_core.errors import DataError, UsageError
from nexus_core.study.arms import ARMS, read_arms, scaled

PRESETS = ["tiny", "small", "design"]


@pytest.mark.parametrize("preset", PRESETS)
def test_the_full_method_is_the_preset_but_for_evaluations(preset):
    settings = read_teaching(preset)
    full = read_arms().arms["full"].teaching(settings, None)
    assert full == replace(settings, retention=replace(settings.retention, every=0))


@pytest.mark.parametrize("preset", PRESETS)
def test_each_control_turns_off_what_its_title_says(preset):
    settings, arms = read_teaching(preset), read_arms().arms
    taught = {name: arm.teaching(settings, None) for name, arm in arms.items()}
    assert [name for name, t in taught.items() if t.loss.kl_weight] == ["logits_only", "no_anchor", "full"]
    assert [name for name, t in taught.items() if t.loss.alpha_hidden or t.loss.alpha_floor] == ["full"]
    assert [name for name, t in taught.items() if t.loss.beta_attention or t.loss.beta_floor] == ["no_anchor", "full"]
    assert [name for name, arm in arms.items() if arm.answers == "gold"] == ["no_teacher"]
    for name, found in taught.items():
        assert (found.data, found.phases, found.optimizer) == (settings.data, settings.phases, settings.optimizer), name
        assert found.retention.every == 0


def test_recovery_off_never_fires_on_a_number():
    settings = read_arms().arms["logits_only"].teaching(read_teaching("tiny"), None).recovery
    state = RecoveryState(Averages(0.1, 1000, {"": Anchored(0.1, 1000, 0.01)}))
    assert judge(state, Watched(1e12, {"": 1e12}), settings) is None
    assert (
        judge(RecoveryState(Averages(0.0, 1000, {"": Anchored(0.0, 1000, 0.0)})), Watched(1e12, {"": 1e12}), settings)
        is None
    )
    assert judge(state, Watched(float("nan")), settings) is not None
    assert not any(check_due(state, step, settings) for step in range(2000))
    assert settings.most_rollbacks == 0


@pytest.mark.parametrize("steps", [1, 7, 10, 299, 1800, 5000])
def test_phases_are_scaled_to_the_sum_that_is_asked_for(steps):
    phases = tuple(
        PhaseSettings(f"p{i}", i % 2 == 0, n, 1e-3, 0.0, 0, 50, 1.0) for i, n in enumerate([1400, 0, 400, 7])
    )
    found = scaled(phases, steps)
    assert sum(phase.steps for phase in found) == steps
    assert found[1].steps == 0
    for before, after in zip(phases, found, strict=True):
        assert abs(after.steps - before.steps * steps / 1807) <= 1
        assert after.warm_up == round(50 * min(1, steps / 1807))
        assert replace(after, steps=before.steps, warm_up=50) == before


def test_a_preset_without_steps_cannot_be_scaled():
    with pytest.raises(UsageError, match="no steps"):
        scaled([PhaseSettings("p", True, 0, 1e-3, 0.0, 0, 50, 1.0)], 10)


def test_chosen_arms_keep_the_order_of_the_file():
    arms = read_arms()
    assert [arm.name for arm in arms.chosen(["full", "no_teacher"])] == ["no_teacher", "full"]
    assert [arm.name for arm in arms.chosen([])] == ["no_teacher", "logits_only", "no_anchor", "full"]
    with pytest.raises(UsageError, match='no arm "no_anchors"; did you mean "no_anchor"') as error:
        arms.chosen(["no_anchors"])
    assert error.value.hint == "arms: no_teacher, logits_only, no_anchor, full"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "fulll"}, "'fulll' is none of its arms"),
        ({"baselines": ["logits"]}, "'logits' is none of its arms"),
        ({"teachers": 3}, "unknown key 'teachers'"),
        ({"arms": {"full": {"answers": "silver"}}}, "full.answers is 'silver'"),
        ({"arms": ["full"]}, "found list"),
        ({"every_arm": 3}, "every_arm: expected keys and values"),
    ],
)
def test_what_cannot_be_meant_is_named(tmp_path, change, message):
    path = tmp_path / "arms.yaml"
    raw = yaml.safe_load(ARMS.read_text())
    path.write_text(yaml.safe_dump({**raw, **change}))
    with pytest.raises(DataError, match=message):
        read_arms(path)


@pytest.mark.parametrize(
    ("section", "message"),
    [({"loss": {"alpha": 1.0}}, "full.loss: unknown key 'alpha'"), ({"losses": {}}, "full: unknown key 'losses'")],
)
def test_a_setting_that_does_not_exist_is_named(tmp_path, section, message):
    path = tmp_path / "arms.yaml"
    raw = yaml.safe_load(ARMS.read_text())
    raw["arms"]["full"] |= section
    path.write_text(yaml.safe_dump(raw))
    with pytest.raises(DataError, match=message):
        read_arms(path).arms["full"].teaching(read_teaching("tiny"), None)
