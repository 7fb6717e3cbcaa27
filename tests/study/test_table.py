"""Intervals over samples and seeds, and what a study says of them, with scores that are made up."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_core.stats import paired_drop
from nexus_core.study.arms import read_arms
from nexus_core.study.compare import Draws, mean_of
from nexus_core.study.table import Findings, arm_rows, document, gain_rows, sign
from nexus_core.types import CapabilityMetric, Direction, Sample

N = 300
SAMPLES = [Sample(str(i), str(i), "") for i in range(N)]


class Numbers(CapabilityMetric):
    metric, direction = "exact", Direction.HIGHER

    def __init__(self, name="one"):
        self.name = name

    def samples(self, request):
        yield from SAMPLES

    def score(self, sample, output):
        return float(output)


class Errors(Numbers):
    direction = Direction.LOWER


class Joined(Numbers):
    """The same value by way of `aggregate`."""

    def aggregate(self, samples, scores):
        assert len(samples) == len(scores)
        return float(np.mean(scores))


def scores(rate, seed, seeds=3):
    rng = np.random.default_rng(seed)
    return [(rng.random(N) < rate).astype(float).tolist() for _ in range(seeds)]


# --- intervals --------------------------------------------------------------------------------------------------


def test_one_seed_gives_the_interval_of_a_paired_bootstrap():
    rng = np.random.default_rng(5)
    one, two = rng.random(N), rng.random(N) - 0.1
    draws = Draws(Numbers(), SAMPLES)
    gain = draws.gain(draws.mean([one]), draws.mean([two])).interval
    expected = paired_drop(Numbers(), SAMPLES, one, two, 1)
    assert gain.value == pytest.approx(expected.value)
    assert (gain.low, gain.high) == pytest.approx((expected.low, expected.high), abs=0.004)


def test_pairing_makes_a_difference_sharper_than_its_parts():
    draws, hard = Draws(Numbers(), SAMPLES), np.random.default_rng(0).random(N)
    one, two = draws.mean([hard + 0.02]), draws.mean([hard])
    gain = draws.gain(one, two).interval
    assert (gain.value, gain.low, gain.high) == pytest.approx((0.02, 0.02, 0.02))
    assert one.interval.high - one.interval.low > 0.05


def test_seeds_that_differ_widen_the_interval():
    draws = Draws(Numbers(), SAMPLES)
    alike = draws.mean([[0.5] * N, [0.5] * N, [0.5] * N]).interval
    apart = draws.mean([[0.2] * N, [0.5] * N, [0.8] * N]).interval
    assert alike.high - alike.low == pytest.approx(0)
    assert apart.value == pytest.approx(0.5)
    assert (apart.low, apart.high) == pytest.approx((0.2, 0.8), abs=0.11)


def test_a_metric_of_its_own_kind_is_resampled_through_it():
    values = scores(0.6, 1, seeds=2)
    plain, joined = Draws(Numbers(), SAMPLES).mean(values), Draws(Joined(), SAMPLES).mean(values)
    assert joined.value == pytest.approx(plain.value)
    np.testing.assert_allclose(joined.draws, plain.draws)


def test_where_lower_is_better_a_gain_is_fewer_errors():
    draws = Draws(Errors(), SAMPLES)
    good, bad = draws.mean(scores(0.1, 1)), draws.mean(scores(0.4, 2))
    assert draws.gain(good, bad).interval.low > 0
    assert draws.retained(good, bad).value > 1 > draws.retained(bad, good).value


def test_nothing_is_retained_of_a_teacher_that_knows_nothing():
    draws = Draws(Numbers(), SAMPLES)
    found = draws.retained(draws.mean([[1.0] * N]), draws.mean([[0.0] * N])).interval
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Of two arms that are equally good: each unit is a draw of a seed's level, then of its answers."""
    rng, draws, held = np.random.default_rng(3), Draws(Numbers(), SAMPLES), 0
    for _ in range(100):
        one, two = ([(rng.random(N) < 0.7).astype(float) for _ in range(3)] for _ in range(2))
        gain = draws.gain(draws.mean(one), draws.mean(two)).interval
        held += gain.low <= 0 <= gain.high
    assert 88 <= held <= 100


def test_a_mean_over_capabilities_resamples_them_apart():
    one, two = Draws(Numbers("one"), SAMPLES), Draws(Numbers("two"), SAMPLES)
    values = [np.random.default_rng(1).random(N)]
    both = mean_of({"one": one.mean(values), "two": two.mean(values)}).interval
    alone = one.mean(values).interval
    assert both.value == pytest.approx(alone.value)
    assert both.high - both.low == pytest.approx((alone.high - alone.low) / 2**0.5, rel=0.1)


# --- what it says -----------------------------------------------------------------------------------------------


def unit(rates, seed, lost=0, failed=None, error=1.0):
    parts = {}
    for i, (name, rate) in enumerate(rates.items()):
        values = scores(rate, 10 * seed + i, 1)[0]
        parts[name] = {"score": float(np.mean(values)), "n": N, "low": 0.0, "high": 1.0, "scores": values}
        parts[name] |= {"tokens_per_second": 100.0, "anchor_error": error}
    costs = {"steps": 10 + lost, "lost": lost, "tokens": 5, "seconds": 2.0, "memory_mb": 300.0, "bytes": 3 << 20}
    found = {"failed": failed, "rollbacks": [], "trainings": ["joint"], "samples": N, **costs}
    return found if failed else {**found, "capabilities": parts}


def findings(teachers=True, **arms):
    """Three seeds of each arm; each is given its scores by capability."""
    draws = {name: Draws(Numbers(name), SAMPLES) for name in ("one", "two")}
    units = {arm: {s: unit(rates, 10 * i + s) for s in (1, 2, 3)} for i, (arm, rates) in enumerate(arms.items())}
    known = {name: {"score": 1.0, "n": N, "scores": [1.0] * N} for name in draws} if teachers else {}
    return Findings(read_arms(), units, known, draws, 3)


BAD, MIDDLE, GOOD = {"one": 0.3, "two": 0.4}, {"one": 0.5, "two": 0.6}, {"one": 0.8, "two": 0.9}


def test_a_method_that_wins_is_said_to_with_its_numbers():
    found = document(findings(no_teacher=BAD, logits_only=MIDDLE, no_anchor=MIDDLE, full=GOOD))
    assert found["verdict"].startswith("full wins: +0.")
    assert "over logits_only" in found["verdict"] and "over no_teacher" in found["verdict"]
    gains = {(row["arm"], row["against"], row["capability"]): row["gain"] for row in found["comparisons"]}
    assert gains["full", "logits_only", "all"]["low"] > 0
    means = [found["arms"][arm]["score"]["one"]["value"] for arm in ("full", "logits_only")]
    assert gains["full", "logits_only", "one"]["value"] == pytest.approx(means[0] - means[1])
    assert ("logits_only", "no_teacher", "all") in gains
    assert ("no_teacher", "logits_only", "all") not in gains


def test_a_method_that_does_not_win_is_said_not_to():
    found = document(findings(no_teacher=BAD, logits_only=GOOD, no_anchor=BAD, full=MIDDLE))
    assert found["verdict"].startswith("full does not win: -0.")
    assert "logits_only is better by 0." in found["verdict"]
    assert "over no_teacher" in found["verdict"]
    assert sign(next(row["gain"] for row in found["comparisons"] if row["arm"] == "full")) == "worse"


def test_a_difference_within_its_interval_is_no_win():
    found = document(findings(no_teacher=BAD, logits_only=MIDDLE, full={"one": 0.505, "two": 0.605}))
    assert found["verdict"].startswith("full does not win")
    rows = [row for row in found["comparisons"] if (row["arm"], row["against"]) == ("full", "logits_only")]
    assert {sign(row["gain"]) for row in rows} == {"undecided"}


def test_another_arm_that_is_better_than_the_method_is_named():
    found = document(findings(no_teacher=BAD, logits_only=BAD, no_anchor=GOOD, full=MIDDLE))
    assert found["verdict"].startswith("full does not win: no_anchor is better by 0.")


def test_a_capability_on_which_the_method_is_behind_is_named():
    found = document(findings(no_teacher=BAD, logits_only=MIDDLE, full={"one": 0.99, "two": 0.5}))
    assert found["verdict"].startswith("full wins")
    assert "though not on two -0." in found["verdict"]


def test_a_failed_seed_leaves_its_arm_out_and_is_told():
    of = findings(no_teacher=BAD, logits_only=MIDDLE, full=GOOD)
    of.units["logits_only"][2] = unit(MIDDLE, 2, failed="the loss is not finite")
    found = document(of)
    assert found["verdict"] == "no verdict: not all units of logits_only are there and well"
    assert "logits_only, seed 2 failed: the loss is not finite" in found["notes"]
    assert not any("logits_only" in (row["arm"], row["against"]) for row in found["comparisons"])
    assert ["logits_only", "2", "failed", "failed"] in [row[:4] for row in arm_rows(found, ["one", "two"])[1]]


def test_steps_that_rollbacks_undid_are_told():
    of = findings(no_teacher=BAD, logits_only=MIDDLE, full=GOOD)
    of.units["full"][3] = unit(GOOD, 3, lost=4)
    assert any("full: rollbacks undid steps" in note and "4 (seed 3)" in note for note in document(of)["notes"])


def test_the_anchor_error_is_told_in_units_of_the_methods():
    of = findings(no_teacher=BAD, logits_only=MIDDLE, full=GOOD)
    of.units["full"] = {seed: unit(GOOD, seed, error=0.25) for seed in (1, 2, 3)}
    assert "no_teacher 4.0 x, logits_only 4.0 x" in document(of)["notes"][-1]


def test_tables_have_a_row_for_each_arm_and_seed():
    found = document(findings(no_teacher=BAD, logits_only=MIDDLE, full=GOOD))
    head, rows = arm_rows(found, ["one", "two"])
    assert [row[:2] for row in rows] == [
        [arm, seed] for arm in ("no_teacher", "logits_only", "full") for seed in ("mean", "1", "2", "3")
    ]
    assert all(len(row) == len(head) for row in rows)
    row = dict(zip(head, rows[8], strict=True))
    value = found["arms"]["full"]["score"]["one"]["value"]
    assert row["one"] == f"{value:.3f} ({value:.3f})"
    assert (row["worst"], row["student MB"], row["peak MB"], row["steps"]) == ("one", "3.00", "300", "10")
    head, rows = gain_rows(found)
    assert all(len(row) == len(head) for row in rows)


def test_without_teachers_the_worst_is_by_score():
    found = document(findings(teachers=False, no_teacher=BAD, logits_only=MIDDLE, full=GOOD))
    assert found["arms"]["full"]["worst"] == "one"
    assert "(" not in arm_rows(found, ["one", "two"])[1][0][2]
