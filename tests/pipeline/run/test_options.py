"""What was asked for, as one value: flags, defaults, and the ladder's numbers."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus_core.errors import DataError, StateError, UsageError
from nexus_core.pipeline.ladder import LADDER, read_ladder
from nexus_core.pipeline.options import idle_flags, options_from, parse_datasets


def test_without_flags() -> None:
    options = options_from({})
    assert (options.run, options.out) == (Path("runs/default"), Path("runs/default/nexus_bundle_v1"))
    assert (options.plugins, options.teachers, options.layers, options.datasets) == (None, None, (), {})
    assert (options.sample_size, options.preset, options.device, options.seed) == (500, "tiny", "cpu", 42)


def test_the_bundle_goes_into_the_run_unless_another_place_is_named() -> None:
    assert options_from({"run": "r"}).out == Path("r/nexus_bundle_v1")
    assert options_from({"run": "r", "out": "b"}).out == Path("b")


def test_datasets() -> None:
    given = parse_datasets(("math=data/gsm8k", "long-context=x=y"))
    assert given == {"math": ["data/gsm8k"], "long_context": ["x=y"]}
    assert options_from({"datasets": given}).datasets == {"math": "data/gsm8k", "long_context": "x=y"}
    with pytest.raises(UsageError, match="expected CAPABILITY=PATH"):
        parse_datasets(("math",))
    with pytest.raises(StateError, match=r"datasets\.math names 2 places"):
        options_from({"datasets": {"math": ["a", "b"]}})


def test_a_rate_is_that_of_the_adapters_and_the_backbones_goes_with_it() -> None:
    rung = read_ladder().rungs["standard"]
    plain, doubled = (options_from(flags).teaching(rung) for flags in ({}, {"lr": 8e-3}))
    scale = 8e-3 / plain.phases[0].adapter_rate
    for one, other in zip(plain.phases, doubled.phases, strict=True):
        assert other.adapter_rate == pytest.approx(scale * one.adapter_rate)
        assert other.backbone_rate == pytest.approx(scale * one.backbone_rate)
        assert other.steps == one.steps


def test_the_routers_numbers_are_its_own_unless_given() -> None:
    own, given = options_from({}).routing(), options_from({"router_lr": 0.5, "router_epochs": 1}).routing()
    assert (given.router_lr, given.router_epochs) == (0.5, 1)
    assert given.batch_size == own.batch_size and own.router_lr != 0.5


def test_what_stands_in_a_state_and_decides_nothing_is_named() -> None:
    assert idle_flags({"packing": True, "lr": 1.0}) == ["packing"]


@pytest.mark.parametrize(
    ("samples", "name"), [(8, "debug"), (50, "debug"), (499, "debug"), (500, "standard"), (9999, "production")]
)
def test_a_rung_is_the_largest_that_is_not_above(samples: int, name: str) -> None:
    ladder = read_ladder()
    found, rung = ladder.rung(samples)
    assert found == name
    own = ladder.rungs[name]
    assert rung.steps == own.steps
    assert rung.profile == (own.profile if samples == own.samples else samples)


def test_the_debug_rung_does_a_share_of_the_steps() -> None:
    ladder = read_ladder()
    whole = options_from({}).teaching(ladder.rungs["standard"])
    small = options_from({}).teaching(ladder.rungs["debug"])
    assert (whole.retention.full, small.retention.full) == (256, 50)
    for one, other in zip(whole.phases, small.phases, strict=True):
        assert other.steps == max(1, round(one.steps * ladder.rungs["debug"].steps))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("profile: 24 ", "profiles: 24 ", "unknown key 'profiles'"),
        ("steps: 0.03", "steps: many", "rungs.debug.steps"),
        ("samples: 50\n", "samples: 5000\n", "not in the order"),
        ("measured:", "mesured:", "expected the keys rungs and measured"),
    ],
)
def test_a_slip_in_the_ladder_is_named(tmp_path: Path, old: str, new: str, says: str) -> None:
    text = LADDER.read_text()
    assert old in text
    (tmp_path / "ladder.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(DataError) as error:
        read_ladder(tmp_path / "ladder.yaml")
    assert says in error.value.message
