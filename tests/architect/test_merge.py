"""Two teachers of one capability: one owns the adapter, and what becomes of the other is said."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nexus_core.architect.architect import Request
from nexus_core.profiling.pca import PCA
from nexus_core.types import Direction

SMALL = Request("small")


def about(arch, subject):
    return [(d.action, d.reason) for d in arch.decisions if d.subject == subject]


def seen(block, coords):
    """The same block with these coordinates of the shared samples."""
    k = coords.shape[1]
    pca = PCA(block.pca.mean, block.pca.basis[:k], block.pca.variance[:k], 9.0, 900, "")
    return replace(block, coords=coords, pca=pca)


@pytest.fixture
def shared():
    return np.random.default_rng(7).normal(size=(40, 6))


def test_heavy_overlap_is_merged_into_the_better_teacher(bench, make_block, shared):
    turn = np.linalg.qr(np.random.default_rng(8).normal(size=(6, 6)))[0]
    bench.profile("ada", "code", seen(make_block(2, 6, 6), shared), baseline_score=0.8)
    bench.profile("bob", "code", seen(make_block(3, 6, 6, seed=5), 3 * shared @ turn), baseline_score=0.9)
    arch = bench.architect.design(SMALL)
    assert arch.adapter("code").teacher == "bob"
    ((action, reason),) = about(arch, "ada/code")
    assert action == "merge"
    assert "into bob/code" in reason and "heavy from 0.8" in reason and "pass@1 0.8 beside 0.9" in reason


def test_without_overlap_the_better_teacher_is_kept_and_the_other_dropped(bench, make_block):
    bench.profile("ada", "code", make_block(2, 6, 6, seed=1), baseline_score=0.95)
    bench.profile("bob", "code", make_block(3, 6, 6, seed=5), baseline_score=0.9)
    arch = bench.architect.design(SMALL)
    assert arch.adapter("code").teacher == "ada"
    ((action, reason),) = about(arch, "bob/code")
    assert action == "drop"
    assert "one adapter per capability" in reason and "so nothing is merged" in reason
    assert "the best of 2 teachers" in about(arch, "ada/code")[0][1]


def test_an_overlap_that_cannot_be_measured_is_said(bench, make_block):
    bench.profile("ada", "code", baseline_score=0.95)
    bench.profile("bob", "code", verify_outputs=())
    ((action, reason),) = about(bench.architect.design(SMALL), "bob/code")
    assert action == "drop"
    assert "overlap not measured: 0 shared samples" in reason


@pytest.mark.parametrize(("direction", "owner"), [(Direction.HIGHER, "bob"), (Direction.LOWER, "ada")])
def test_better_is_what_the_metric_says(bench, direction, owner):
    bench.profile("ada", "code", baseline_score=0.2, direction=direction)
    bench.profile("bob", "code", baseline_score=0.3, direction=direction)
    assert bench.architect.design(SMALL).adapter("code").teacher == owner


def test_equal_scores_are_settled_by_proof_and_then_by_name(bench, make_block):
    bench.profile("bob", "code", make_block(2, 8, 3))
    bench.profile("ada", "code", make_block(2, 8, 3))
    assert bench.architect.design(SMALL).adapter("code").teacher == "ada"
    bench.profile("bob", "code", make_block(2, 8, 4))
    assert bench.architect.design(SMALL).adapter("code").teacher == "bob"


def test_a_teacher_that_carries_no_plan_does_not_own_whatever_it_scores(bench, make_block):
    bench.profile("ada", "code", make_block(2, 0, 0), baseline_score=1.0)
    bench.profile("bob", "code", baseline_score=0.5)
    arch = bench.architect.design(SMALL)
    assert arch.adapter("code").teacher == "bob"
    assert about(arch, "ada/code")[0][0] == "drop"
