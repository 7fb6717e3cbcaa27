"""Generated problems: splits, seeds, arithmetic, baselines."""

from __future__ import annotations

import itertools
import re

import pytest
from nexus_capability_reasoning.generate import generate, split_of
from nexus_capability_reasoning.metric import Reasoning, well_formed

from nexus_core.plugins import Plugins
from nexus_core.types import Direction, Sample, SampleRequest, Split

METRIC = Reasoning()


def draw(split: Split, n: int = 300, seed: int = 42) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, seed)))


def chain(sample: Sample) -> str:
    return "|".join(sample.target.split("\n")[:-1])


def test_the_facade_finds_the_pack() -> None:
    metric = Plugins(["reasoning"]).capability_metric("reasoning")
    assert (metric.name, metric.metric, metric.direction) == ("reasoning", "exact_answer", Direction.HIGHER)


def test_splits_share_neither_a_prompt_nor_a_chain_of_numbers() -> None:
    drawn = {split: draw(split, 1000) for split in Split}
    for a, b in itertools.combinations(Split, 2):
        assert not {s.digest for s in drawn[a]} & {s.digest for s in drawn[b]}
        assert not {chain(s) for s in drawn[a]} & {chain(s) for s in drawn[b]}
    assert all(split_of(chain(s)) is split for split, samples in drawn.items() for s in samples)


def test_verify_is_finite_and_never_repeats() -> None:
    everything = list(generate(Split.VERIFY, None, 42))
    assert len(everything) == len({s.digest for s in everything}) == 1000


def test_train_is_endless() -> None:
    assert len(list(itertools.islice(METRIC.samples(SampleRequest(Split.TRAIN)), 3000))) == 3000


def test_the_seed_alone_decides() -> None:
    assert draw(Split.VERIFY, 50) == draw(Split.VERIFY, 50)
    assert draw(Split.VERIFY, 50) == draw(Split.VERIFY, 80)[:50]
    assert draw(Split.VERIFY, 50) != draw(Split.VERIFY, 50, seed=7)


def test_every_written_step_is_true_and_uses_numbers_that_are_known() -> None:
    for sample in draw(Split.TRAIN, 500):
        *steps, last = sample.target.split("\n")
        assert 2 <= len(steps) <= 4
        known = {int(n) for n in re.findall(r"\d+", sample.prompt)}
        for step in steps:
            left, sign, right, result = re.fullmatch(r"(\d{2})([-+*/])(\d{2})=(\d{2})", step).groups()
            a, b, c = int(left), int(right), int(result)
            assert {a, b} <= known
            assert c == {"+": a + b, "-": a - b, "*": a * b, "/": a / b}[sign]
            known.add(c)
        assert last == f"#### {c}" == f"#### {sample.meta['answer']}"


def test_problems_are_varied() -> None:
    samples = draw(Split.TRAIN, 2000)
    assert len({s.digest for s in samples}) == len(samples)
    shapes = {(s.stratum, re.sub(r"[0-9]", "", chain(s))) for s in samples}
    assert len(shapes) > 200
    assert {s.stratum for s in samples} == {"2 steps", "3 steps", "4 steps"}


def test_references_score_one_and_wrong_answers_zero() -> None:
    for sample in draw(Split.VERIFY, 200):
        assert METRIC.score(sample, sample.target) == 1.0
        assert well_formed(sample.target)
        assert METRIC.score(sample, f"#### {int(sample.meta['answer']) + 1}") == 0.0


@pytest.mark.parametrize(
    ("output", "score"),
    [
        ("so it is 43", 1.0),
        ("#### 43.0", 1.0),
        ("43 apples, no: 44", 0.0),
        ("#### 44\nbut 43", 0.0),
        ("#### 43 apples of 50", 1.0),
        ("-43", 0.0),
        ("", 0.0),
        ("none", 0.0),
    ],
)
def test_extraction(output: str, score: float) -> None:
    assert METRIC.score(Sample("x", "p", "#### 43", meta={"answer": "43", "kind": "number"}), output) == score


def test_baselines_are_near_zero() -> None:
    request = SampleRequest(Split.VERIFY, 400)
    asked = list(METRIC.samples(request))
    baselines = METRIC.baselines(request)
    assert set(baselines) == {"random", "majority"}
    for outputs in baselines.values():
        assert len(outputs) == len(asked)
        assert METRIC.aggregate(asked, METRIC.score_all(asked, outputs)) < 0.06
