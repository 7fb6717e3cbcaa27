"""Teaching the router: labels, comparisons, calibration and what it leaves alone. Small made-up capabilities."""

from __future__ import annotations

import io
import random
from dataclasses import replace

import pytest
import torch
from rich.console import Console

from nexus_core.distill.routing import PLAIN, RouterSettings, RoutingPrompts, routing_prompts, train_router
from nexus_core.distill.routing_report import RouterReport
from nexus_core.distill.routing_texts import foreign_texts, general_text, negatives
from nexus_core.errors import DataError
from nexus_core.student.arch import RouterArch
from nexus_core.student.router import SparseIntentRouter

ARCH = RouterArch(("sums", "letters"), buckets=512, width=8, most=1)
SETTINGS = RouterSettings(negative_prompts=200, router_epochs=15, batch_size=32)
NAMES, THINGS = ("Ada", "Boris", "Chen", "Dora", "Emil"), ("rain", "money", "bread", "music", "ships")


def sums(n: int, seed: str) -> list[str]:
    rng = random.Random(seed)
    return [f"What is {rng.randint(2, 999)} {rng.choice('+-*')} {rng.randint(2, 999)}?" for _ in range(n)]


def letters(n: int, seed: str) -> list[str]:
    rng = random.Random(seed)
    return [f"Write a letter to {rng.choice(NAMES)} about {rng.choice(THINGS)}." for _ in range(n)]


def part(n: int, seed: str) -> dict[str, list[str]]:
    return {"sums": sums(n, seed), "letters": letters(n, seed)}


PARTS = RoutingPrompts(part(150, "train"), part(60, "calibrate"), part(100, "verify"), foreign_texts(20, 7))


@pytest.fixture(scope="module")
def trained() -> tuple[SparseIntentRouter, RouterReport]:
    return train_router(ARCH, PARTS, settings=SETTINGS)


def test_held_out_prompts_find_their_adapter(trained: tuple[SparseIntentRouter, RouterReport]) -> None:
    report = trained[1]
    assert report.n == 200 and report.accuracy >= 0.97
    assert report.ci95[0] < report.accuracy <= report.ci95[1] and report.calibration_error < 0.05


def test_text_of_kinds_that_it_was_not_shown_is_left_alone(trained: tuple[SparseIntentRouter, RouterReport]) -> None:
    router, report = trained
    assert set(report.foreign) == set(PARTS.foreign) and report.abstained >= 0.95
    assert router.route("").adapters == () and router.route("int main(void) { return 0; }").adapters == ()


def test_the_report_counts_what_the_router_does(trained: tuple[SparseIntentRouter, RouterReport]) -> None:
    router, report = trained
    for name, prompts in PARTS.verify.items():
        routed = [route.adapters[0] if route.adapters else "none" for route in router.routes(prompts)]
        assert report.confusion[name] == {column: routed.count(column) for column in ("sums", "letters", "none")}
    assert report.parameters == sum(tensor.numel() for tensor in router.state_dict().values())


def test_the_table_shows_the_matrix_and_the_foreign_kinds(trained: tuple[SparseIntentRouter, RouterReport]) -> None:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(trained[1].table())
    text = console.export_text()
    assert all(word in text for word in ("sums", "letters", "none", "foreign: json", "of 200", "20 of 20"))


def test_the_same_seed_gives_the_same_bits(trained: tuple[SparseIntentRouter, RouterReport]) -> None:
    again, _ = train_router(ARCH, PARTS, settings=SETTINGS)
    other, _ = train_router(ARCH, PARTS, settings=SETTINGS, seed=1)
    states = [router.state_dict() for router in (trained[0], again, other)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert not torch.equal(states[0]["embedding.weight"], states[2]["embedding.weight"])


def test_a_single_class_is_learnt_against_the_negatives() -> None:
    one = RoutingPrompts(*({"sums": p["sums"]} for p in (PARTS.train, PARTS.calibrate, PARTS.verify)), PARTS.foreign)
    _, report = train_router(replace(ARCH, classes=("sums",)), one, settings=SETTINGS)
    assert report.accuracy >= 0.95 and report.abstained >= 0.95


# --- comparison of versions ---------------------------------------------------------------------------------------


def every(prompts: RoutingPrompts, name: str, scores: dict[str, float]) -> dict[str, dict[str, float]]:
    """The same outcome for each prompt of one label."""
    return {text: scores for p in (prompts.train, prompts.calibrate, prompts.verify) for text in p[name]}


def test_the_version_that_scored_best_overrides_the_label() -> None:
    # Letters to Ada are better answered by the other adapter: the router learns that from the outcomes alone.
    ada = {
        text: {"sums": 1.0, "letters": 0.0}
        for p in (PARTS.train, PARTS.calibrate, PARTS.verify)
        for text in p["letters"]
        if "Ada" in text
    }
    router, report = train_router(replace(ARCH, buckets=2048), PARTS, ada, settings=SETTINGS)
    assert report.accuracy >= 0.95
    assert router.route("Write a letter to Ada about ships.").adapters == ("sums",)
    assert router.route("Write a letter to Emil about ships.").adapters == ("letters",)


def test_where_the_plain_backbone_scored_best_none_is_right() -> None:
    dora = {
        text: {"letters": 0.2, PLAIN: 0.9}
        for p in (PARTS.train, PARTS.calibrate, PARTS.verify)
        for text in p["letters"]
        if "Dora" in text
    }
    router, report = train_router(replace(ARCH, buckets=2048), PARTS, dora, settings=SETTINGS)
    assert router.route("Write a letter to Dora about ships.").adapters == ()
    assert router.route("Write a letter to Emil about ships.").adapters == ("letters",)
    assert report.confusion["none"]["none"] >= 0.9 * sum(report.confusion["none"].values()) > 0


def test_a_tie_leaves_the_label() -> None:
    tied = every(PARTS, "letters", {"sums": 0.5, "letters": 0.5, PLAIN: 0.5})
    plain, _ = train_router(ARCH, PARTS, settings=SETTINGS)
    same, _ = train_router(ARCH, PARTS, tied, settings=SETTINGS)
    assert torch.equal(plain.heads.weight, same.heads.weight)


def test_an_isolated_adapter_cannot_enter_through_a_comparison_or_through_prompts() -> None:
    with pytest.raises(DataError, match='score of "uncensored"'):
        train_router(ARCH, PARTS, every(PARTS, "sums", {"uncensored": 1.0}), settings=SETTINGS)
    more = replace(PARTS, train={**PARTS.train, "uncensored": ["x"]})
    with pytest.raises(DataError, match="prompts of letters, sums, uncensored"):
        train_router(ARCH, more, settings=SETTINGS)


def test_a_class_that_is_never_right_is_an_error() -> None:
    with pytest.raises(DataError, match='no held-out prompt is for "letters"'):
        train_router(ARCH, PARTS, every(PARTS, "letters", {"sums": 1.0}), settings=SETTINGS)


def test_missing_prompts_are_named() -> None:
    with pytest.raises(DataError, match="prompts of sums"):
        train_router(ARCH, replace(PARTS, train={"sums": ["x"]}), settings=SETTINGS)
    with pytest.raises(DataError, match='no prompts of "letters"'):
        train_router(ARCH, replace(PARTS, calibrate={"sums": ["x"], "letters": []}), settings=SETTINGS)


# --- texts for no adapter -------------------------------------------------------------------------------------------


def test_texts_depend_on_the_seed_alone() -> None:
    assert negatives(30, 1) == negatives(30, 1) != negatives(30, 2)
    assert foreign_texts(5, 1) == foreign_texts(5, 1) != foreign_texts(5, 2)
    assert len(negatives(31, 1)) == 31 and all(len(some) == 5 for some in foreign_texts(5, 1).values())


def test_general_text_is_plenty_and_none_of_it_is_repeated() -> None:
    texts = general_text()
    assert len(texts) > 200 and len(set(texts)) == len(texts) and sum(map(len, texts)) > 200_000


def test_prompts_of_a_pack_come_from_three_splits() -> None:
    settings = RouterSettings(train_prompts=40, held_out_prompts=20)
    prompts = routing_prompts(["reasoning"], settings, 42)
    parts = [set(p["reasoning"]) for p in (prompts.train, prompts.calibrate, prompts.verify)]
    assert [len(p["reasoning"]) for p in (prompts.train, prompts.calibrate, prompts.verify)] == [40, 20, 20]
    assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
