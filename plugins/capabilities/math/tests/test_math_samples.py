"""Generated problems: splits, seeds, arithmetic, baselines."""

from __future__ import annotations

import itertools
import random
import re

import pytest
from nexus_capability_math.families import FAMILIES
from nexus_capability_math.generate import generate
from nexus_capability_math.metric import Math, well_formed

from nexus_core.plugins import Plugins
from nexus_core.types import Direction, Sample, SampleRequest, Split

METRIC = Math()


def draw(split: Split, n: int = 300, seed: int = 42) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, seed)))


def test_the_facade_finds_the_pack() -> None:
    metric = Plugins(["math"]).capability_metric("math")
    assert (metric.name, metric.metric, metric.direction) == ("math", "exact_answer", Direction.HIGHER)


def test_splits_are_disjoint() -> None:
    drawn = {split: draw(split, 1000) for split in Split}
    for a, b in itertools.combinations(Split, 2):
        assert not {s.digest for s in drawn[a]} & {s.digest for s in drawn[b]}
        assert not content(drawn[a]) & content(drawn[b])


def content(samples: list[Sample]) -> set[tuple[str, str]]:
    """The numbers, whatever the words; only of families where no other problem has the same steps."""
    return {(s.stratum, s.target) for s in samples if s.stratum in ("equation", "average")}


def test_verify_is_finite_and_never_repeats() -> None:
    everything = list(generate(Split.VERIFY, None, 42))
    assert len(everything) == len({s.digest for s in everything}) == 1000
    assert {s.stratum for s in everything} == set(FAMILIES)


def test_train_is_endless() -> None:
    assert len(list(itertools.islice(METRIC.samples(SampleRequest(Split.TRAIN)), 3000))) == 3000


def test_the_seed_alone_decides() -> None:
    assert draw(Split.VERIFY, 50) == draw(Split.VERIFY, 80)[:50]
    assert draw(Split.VERIFY, 50) != draw(Split.VERIFY, 50, seed=7)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_written_step_is_true(family: str) -> None:
    rng = random.Random(family)
    for _ in range(300):
        problem = FAMILIES[family](rng)
        for step in problem.steps:
            a, sign, b, c = re.fullmatch(r"(-?\d+)([-+*/])(\d+)=(-?\d+)", step).groups()
            assert (
                int(c) == {"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b), "/": int(a) / int(b)}[sign]
            )
        assert problem.answer == int(c) > 0


def test_equations_have_the_root_that_is_claimed() -> None:
    rng = random.Random(1)
    for _ in range(200):
        problem = FAMILIES["equation"](rng)
        k, sign, b, right = re.fullmatch(r"(\d+)x ([-+]) (\d+) = (\d+)", problem.key).groups()
        assert int(k) * problem.answer + int(f"{sign}{b}") == int(right)


def test_references_score_one_and_wrong_answers_zero() -> None:
    for sample in draw(Split.VERIFY, 200):
        assert METRIC.score(sample, sample.target) == 1.0
        assert well_formed(sample.target)
        assert METRIC.score(sample, f"#### {int(sample.meta['answer']) + 1}") == 0.0


@pytest.mark.parametrize(
    ("output", "score"),
    [("#### 1,200", 1.0), ("#### $1200.00", 1.0), ("x = 1200", 1.0), ("#### 120", 0.0), ("", 0.0), ("####", 0.0)],
)
def test_extraction(output: str, score: float) -> None:
    assert METRIC.score(Sample("x", "p", "#### 1200", meta={"answer": "1,200"}), output) == score


def test_baselines_are_near_zero() -> None:
    request = SampleRequest(Split.VERIFY, 400)
    asked = list(METRIC.samples(request))
    for outputs in METRIC.baselines(request).values():
        assert len(outputs) == len(asked)
        assert METRIC.aggregate(asked, METRIC.score_all(asked, outputs)) < 0.06
