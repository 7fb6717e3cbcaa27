"""A whole profile, and every way in which there is nothing to find."""

from __future__ import annotations

import sys

import pytest
import torch

from nexus_core.errors import ModelError, NexusError
from nexus_core.plugins import Plugins
from nexus_core.profiling.model import ComponentClass
from nexus_core.profiling.run import Profiler, ProfileSettings
from nexus_core.types import Contract, Direction, Thresholds

CONTRACT = Contract(
    capability="lookup",
    benchmark="pack",
    metric="exact_match",
    direction=Direction.HIGHER,
    retain_fraction=0.97,
    minimum=None,
    tier=1,
    rank_cap=512,
    thresholds=Thresholds(0.02, 0.005),
)


def settings(**changes) -> ProfileSettings:
    numbers = {"sample_size": 60, "pilot": 20, "verify": 20, "blocks": 1, "components": 6, "k": 64, "k_middle": 32}
    return ProfileSettings(**{**numbers, "max_drop": 0.01, **changes})


def profiler(planted, metric, **changes) -> Profiler:
    return Profiler(Plugins([]), planted.teacher, metric, CONTRACT, settings(**changes))


@pytest.fixture(scope="module")
def profile(one_planted, lookup):
    return profiler(one_planted, lookup).run()[0]


def test_the_planted_block_is_chosen_and_its_space_protected(one_planted, profile):
    (block,) = profile.blocks
    assert block.block == one_planted.block
    assert block.component_indices[:4] == (0, 1, 2, 3)
    assert {c.cls for c in block.components if c.index < 4} == {ComponentClass.NON_NEGOTIABLE}
    assert profile.baseline_score == 1.0
    assert profile.reconstruction[-1].passed


def test_every_perturbation_is_recorded_with_its_magnitude(profile):
    kinds = {(p.kind, p.magnitude) for p in profile.perturbations}
    assert {("token_dropout", 0.1), ("token_dropout", 0.2), ("typo", 0.05), ("block", "bypass")} <= kinds
    assert {kind for kind, _ in kinds} == {
        "token_dropout", "typo", "filler", "paraphrase", "decoding", "block", "mlp_chunk", "weight_noise", "low_rank",
    }  # fmt: skip
    assert len({m for k, m in kinds if k == "mlp_chunk"}) == 8
    assert [head.head for head in profile.heads] == [0, 1, 2, 3]
    bypass = next(p for p in profile.perturbations if p.kind == "block")
    assert bypass.drop > 0.9
    assert all(head.drop == 0.0 for head in profile.heads)  # attention only writes noise


def test_verification_outputs_are_the_teachers_own(profile):
    assert len(profile.verify_outputs) == 20
    assert all(v.score == 1.0 and v.output in "abcdefghij" for v in profile.verify_outputs)


def test_the_same_run_twice(one_planted, lookup, profile):
    again = profiler(one_planted, lookup).run()[0]
    assert again.blocks[0].components == profile.blocks[0].components
    assert again.perturbations == profile.perturbations
    assert (again.blocks[0].pca.basis == profile.blocks[0].pca.basis).all()
    assert again.weights_hash == profile.weights_hash


def test_the_teacher_is_left_bit_identical(one_planted, lookup):
    before = {name: tensor.clone() for name, tensor in one_planted.teacher.model.state_dict().items()}
    profiler(one_planted, lookup).run()
    after = one_planted.teacher.model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_profiling_writes_no_file(one_planted, lookup):
    """What reaches the disk is what the store is given: summaries. The profiler itself opens nothing for writing."""
    written: list[str] = []
    watching = True

    def watch(event, arguments):
        if watching and event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
            written.append(str(arguments[0]))

    sys.addaudithook(watch)
    try:
        profiler(one_planted, lookup).run()
    finally:
        watching = False
    assert written == []


def test_a_metric_that_is_always_0_is_refused(one_planted, lookup, monkeypatch):
    monkeypatch.setattr(lookup, "score", lambda sample, output: 0.0)
    with pytest.raises(ModelError, match="scores 0 on lookup"):
        profiler(one_planted, lookup).run()


def test_a_metric_that_is_always_1_finds_nothing_and_says_what_was_tried(one_planted, lookup, monkeypatch):
    monkeypatch.setattr(lookup, "score", lambda sample, output: 1.0)
    profile = profiler(one_planted, lookup).run()[0]
    assert profile.blocks == ()
    few, nothing = profile.notes
    assert few.startswith("with 60 samples even a component that changes no answer may cost 0.060")
    assert nothing.startswith("no block carries lookup: bypassing each of 4 blocks")
    assert "20 and then on 60 samples cost at most 0" in nothing


def test_a_dead_block_is_said_to_be_one(one_planted, lookup):
    """Block 0 writes noise only: named explicitly, it is measured, and nothing of it is protected by guess."""
    profile = profiler(one_planted, lookup, layers=("model.layers.0",), sample_size=200).run()[0]
    (block,) = profile.blocks
    # Before the planted block the token itself lies in the residual stream, so its directions do carry the task ...
    assert block.non_negotiable
    # ... but the block's own work does not.
    assert next(p for p in profile.perturbations if p.kind == "block").drop == 0.0


def test_an_unknown_block_is_refused_with_the_known_ones(one_planted, lookup):
    with pytest.raises(NexusError, match=r"'model.layers.9' is not a block") as error:
        profiler(one_planted, lookup, layers=("model.layers.9",)).run()
    assert "model.layers.0" in error.value.hint


def test_nan_activations_are_named(one_planted, lookup, monkeypatch):
    weight = one_planted.teacher.model.model.layers[3].mlp.down_proj.weight
    kept = weight.detach().clone()
    try:
        with torch.no_grad():
            weight[0, 0] = float("nan")
        with pytest.raises(NexusError, match=r"model\.layers\.3: its output holds NaN"):
            profiler(one_planted, lookup).run()
    finally:
        with torch.no_grad():
            weight.copy_(kept)


def test_fewer_samples_than_components_is_said(one_planted, lookup):
    profile = profiler(one_planted, lookup, sample_size=12, verify=4, pilot=6).run()[0]
    (block,) = profile.blocks
    assert len(block.components) < 64
    assert "components" in block.note


def test_interrupt_leaves_no_hook(one_planted, lookup):
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt

    run = Profiler(Plugins([]), one_planted.teacher, lookup, CONTRACT, settings(), heartbeat=stop)
    with pytest.raises(KeyboardInterrupt):
        run.run()
    modules = one_planted.teacher.model.modules()
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules) == 0
