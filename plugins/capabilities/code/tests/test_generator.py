"""The generated functions: splits, references, wording, determinism."""

from __future__ import annotations

from itertools import islice

import pytest
from nexus_capability_code.generator import Composition, generate, tables

from nexus_core.types import Sample, Split


def first(split: Split, n: int, seed: int = 42) -> list[Sample]:
    return list(islice(generate(split, seed), n))


def test_splits_share_no_prompt_and_no_composition() -> None:
    drawn = {split: first(split, 300) for split in Split}
    for one, other in ((Split.TRAIN, Split.VERIFY), (Split.TRAIN, Split.PROFILE), (Split.PROFILE, Split.VERIFY)):
        assert not {s.digest for s in drawn[one]} & {s.digest for s in drawn[other]}
        assert not {s.meta["composition"] for s in drawn[one]} & {s.meta["composition"] for s in drawn[other]}


def test_order_of_filters_does_not_move_a_composition_to_another_split() -> None:
    for filters in (("even", "less"), ("odd", "greater"), ("positive", "multiple")):
        one = Composition("numbers", filters, "and", ("square",), "sum")
        other = Composition("numbers", filters[::-1], "and", ("square",), "sum")
        assert one.split is other.split and one.key == other.key


def test_same_seed_same_samples_and_another_seed_others() -> None:
    assert first(Split.TRAIN, 50) == first(Split.TRAIN, 50)
    assert not {s.digest for s in first(Split.TRAIN, 50)} & {s.digest for s in first(Split.TRAIN, 50, seed=7)}


def test_no_sample_comes_twice_and_all_kinds_come() -> None:
    samples = first(Split.VERIFY, 500)
    assert len({s.digest for s in samples}) == 500
    assert {s.stratum for s in samples} == {*tables()["families"], "conditional"}


def test_prompt_names_the_function_and_its_arguments_as_the_target_does() -> None:
    for sample in first(Split.TRAIN, 300):
        signature = sample.target.split("\n")[0].removeprefix("def ").removesuffix(":")
        assert signature in sample.prompt
        assert "{" not in sample.prompt
        assert len(sample.target) < 200


def test_tests_hold_what_the_target_gives_and_tell_something() -> None:
    for sample in first(Split.PROFILE, 200):
        namespace: dict[str, object] = {}
        exec(sample.target, namespace)
        values = [namespace[sample.meta["entry"]](*test["args"]) for test in sample.meta["tests"]]  # type: ignore[operator]
        assert values == [test["expect"] for test in sample.meta["tests"]]
        assert len({str(value) for value in values}) > 2


@pytest.mark.parametrize("family", ["numbers", "words", "characters", "values"])
@pytest.mark.parametrize("table", ["filters", "maps", "finishers"])
def test_no_two_operations_are_said_alike(family: str, table: str) -> None:
    said = [say for entry in tables()["families"][family][table].values() for say in entry["say"]]
    assert len(said) == len(set(said))
