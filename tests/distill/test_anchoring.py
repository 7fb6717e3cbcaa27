"""Activation anchoring: 0 at the target, in whitened units, critical directions first, and a limit in profiling's unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_core.distill.anchoring import ActivationAnchoringLoss, AnchorSettings, anchor_error, over_limit
from nexus_core.distill.batches import collate
from nexus_core.distill.spaces import AnchorSpace, anchor_space, anchor_spaces
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.model import BlockProfile
from nexus_core.profiling.pca import PCA, StreamingPCA
from nexus_core.profiling.plan import Slot
from nexus_core.student.arch import Site

SETTINGS = AnchorSettings(10.0, 5.0, 1.0, 100, 0.3, 3.0)
FLAT = AnchorSettings(1.0, 1.0, 1.0, 0, 1.0, 1.0)


def space(block=1, variance=(4.0, 1.0, 0.25), importance=None, total=10.0, limit=0.01):
    values = np.array(variance)
    importance = np.zeros(len(values)) if importance is None else np.array(importance)
    return AnchorSpace(block, f"t{block}", tuple(range(len(values))), values, total, importance, limit)


def batch_of(targets, seed=0):
    """One row per list of (has) flags; `targets` maps blocks to k."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(4):
        n = 3 + i
        held = {b: AnchorTarget(rng.normal(size=(n, k)).astype("f4"), rng.random(n) < 0.6) for b, k in targets.items()}
        kl = SparseTargets.none(n)
        rows.append(TrainingRow(str(i), np.zeros(2, np.int32), np.ones(n, np.int32), kl, kl.entropy(), held))
    return collate(rows)


def test_at_the_target_it_is_zero_and_unknown_positions_do_not_count():
    spaces, batch = [space(1), space(4, (2.0, 1.0))], batch_of({1: 3, 4: 2})
    loss = ActivationAnchoringLoss(spaces, SETTINGS)
    z = {}
    for block, (values, has) in batch.anchors.items():
        wild = torch.where(has[:, None], values, torch.full_like(values, 1e6))
        z[block] = torch.cat([wild, torch.randn(len(values), 5)], 1).requires_grad_()  # five free channels
    terms = loss(z, batch, step=0)
    assert float(terms.total.detach()) == 0 and all(
        float(e) == 0 for e in (*terms.blocks.values(), *terms.errors.values())
    )
    moved = {block: (value + 0.5).detach().requires_grad_() for block, value in z.items()}
    terms = loss(moved, batch, step=0)
    terms.total.backward()
    assert float(terms.total.detach()) == pytest.approx(5.0 * 0.25, rel=1e-4)
    for block, value in moved.items():
        has, k = batch.anchors[block][1], loss.spaces[block].k
        assert (value.grad[~has] == 0).all() and (value.grad[:, k:] == 0).all() and (value.grad[has][:, :k] > 0).all()


def test_one_is_no_better_than_the_mean():
    many = collate(
        [
            TrainingRow(
                str(i),
                np.zeros(2, np.int32),
                np.ones(50, np.int32),
                SparseTargets.none(50),
                np.zeros(50, "f4"),
                {1: AnchorTarget(np.random.default_rng(i).normal(size=(50, 3)).astype("f4"), np.ones(50, np.bool_))},
            )
            for i in range(40)
        ]
    )
    loss = ActivationAnchoringLoss([space(importance=(1.0, 0.0, 0.5))], SETTINGS)
    terms = loss({1: torch.zeros(2000, 3)}, many, step=10**6)
    assert float(terms.total) == pytest.approx(1.0, abs=0.1) == float(terms.blocks[1])


def test_weights_follow_variance_within_limits_times_the_loss_weight_of_reserved_channels():
    loss = ActivationAnchoringLoss([space(variance=(100.0, 10.0, 1.0), importance=(1.0, 0.5, 0.0))], SETTINGS)
    # relative variances 100/37, 10/37 -> 0.3, 1/37 -> 0.3; reserved channels weigh 10 and 5 times as much
    expected = [100 / 37 * 10, 0.3 * 5, 0.3]
    assert loss.weight_1.tolist() == pytest.approx(expected, rel=1e-6)
    batch = batch_of({1: 3})
    values, has = batch.anchors[1]
    for i in range(3):
        off = values.clone()
        off[:, i] += 1
        found = float(loss({1: off}, batch, step=10**6).total)
        assert found == pytest.approx(expected[i] / sum(expected), rel=1e-4)
    assert has.any()


def test_alpha_anneals_as_a_pure_function_of_the_step_and_recovery_boosts_it():
    assert [SETTINGS.alpha(step) for step in (0, 50, 100, 10**9)] == [5.0, 3.0, 1.0, 1.0]
    assert AnchorSettings(10.0, 5.0, 1.0, 0, 0.3, 3.0).alpha(0) == 1.0
    batch, z = batch_of({1: 3}), {1: torch.zeros(18, 3)}
    loss = ActivationAnchoringLoss([space()], SETTINGS)
    plain, boosted = loss(z, batch, 50), loss(z, batch, 50, boost=1.2)
    assert boosted.alpha == pytest.approx(3.6) and float(boosted.total) == pytest.approx(1.2 * float(plain.total))
    assert float(boosted.blocks[1]) == float(plain.blocks[1])  # what is logged does not move with the weight


def test_the_error_is_in_the_unit_in_which_profiling_measured_its_limit():
    """|e|^2 / |x - mean|^2 over real activations, with noise of a known relative size inside the protected space."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6000, 12)) * np.linspace(3, 0.2, 12) + 5
    stream = StreamingPCA(12, 12)
    stream.update(rows)
    pca = stream.result().select(range(4))
    protected = BlockProfile("t", 0, 12, "tokens", "answer", pca, (0, 1, 2, 3), np.zeros((0, 4)), (), (), "", 0.03)
    here = anchor_space(Site(2, 4, "t"), protected, ())
    coordinates = pca.coordinates(rows)
    relative = 0.03
    deviation = np.sqrt(relative * pca.total_variance / pca.variance.sum() * pca.variance)
    noisy = coordinates + rng.normal(size=coordinates.shape) * deviation
    direct = ((noisy - coordinates) ** 2).sum() / ((rows - pca.mean) ** 2).sum()
    z, target = torch.from_numpy(here.whitened(noisy)), torch.from_numpy(here.whitened(coordinates))
    assert anchor_error(z, target, here) == pytest.approx(direct, rel=1e-3) == pytest.approx(relative, rel=0.05)
    kl = SparseTargets.none(6000)
    held = {2: AnchorTarget(target.numpy(), np.ones(6000, np.bool_))}
    batch = collate([TrainingRow("x", np.zeros(1, np.int32), np.ones(6000, np.int32), kl, kl.entropy(), held)])
    terms = ActivationAnchoringLoss([here], SETTINGS)({2: z}, batch, 0)
    assert float(terms.errors[2]) == pytest.approx(direct, rel=1e-3)
    assert over_limit({2: 0.06}, [here]) == {2: pytest.approx(2.0)} and over_limit({2: 0.02}, [here]) == {}
    assert over_limit({1: 0.1}, [space(limit=None)]) == {} and over_limit({1: 0.1}, [space(limit=0.0)]) == {
        1: float("inf")
    }
    assert over_limit({1: 0.0}, [space(limit=0.0)]) == {}


def profile_of(variance=(9.0, 4.0, 1.0), indices=(0, 2, 5), name="t"):
    k = len(variance)
    pca = PCA(np.zeros(8), np.eye(8)[:k], np.array(variance), 20.0, 100)
    return BlockProfile(name, 0, 8, "tokens", "answer", pca, indices, np.zeros((0, k)), (), (), "", None)


def test_reserved_channels_come_first_then_the_strongest_and_the_rank_cuts():
    slots = (Slot(0, 5, 0.9, 10.0), Slot(1, 2, 0.1, 5.0))
    full = anchor_space(Site(1, 8, "t"), profile_of(), slots)
    assert full.components == (2, 1, 0) and full.importance.tolist() == [1.0, 0.5, 0.0]
    assert full.variance.tolist() == [1.0, 4.0, 9.0]
    coordinates = np.array([[6.0, 4.0, 2.0]])
    assert full.whitened(coordinates).tolist() == [[2.0, 2.0, 2.0]]
    assert anchor_space(Site(1, 2, "t"), profile_of(), slots).components == (2, 1)
    assert anchor_space(Site(1, 2, "t"), profile_of((1.0, 9.0, 4.0)), ()).components == (1, 2)


def test_what_does_not_fit_is_named():
    with pytest.raises(DataError, match="component 1 has a reserved channel"):
        anchor_space(Site(1, 2, "t"), profile_of(), (Slot(0, 1, 0.9, 10.0),))
    with pytest.raises(UsageError, match="share a student block"):
        ActivationAnchoringLoss([space(1), space(1)], SETTINGS)
    batch, loss = batch_of({1: 3}), ActivationAnchoringLoss([space()], SETTINGS)
    with pytest.raises(UsageError, match="no coordinates of student block 1"):
        loss({}, batch, 0)
    with pytest.raises(UsageError, match=r"coordinates .2, 3. and targets .18, 3. for 3"):
        loss({1: torch.zeros(2, 3)}, batch, 0)
    with pytest.raises(UsageError, match=r"coordinates .18, 2. and targets"):
        loss({1: torch.zeros(18, 2)}, batch, 0)
    for bad in ((0.5, 5, 1, 10, 0.3, 3), (10, 1, 5, 10, 0.3, 3), (10, 5, 1, 10, 0, 3)):
        with pytest.raises(UsageError):
            AnchorSettings(*bad)


def test_a_profile_without_the_block_is_named():
    from nexus_core.profiling.model import CapabilityProfile
    from nexus_core.types import Direction

    profile = CapabilityProfile("ada", "h", "math", "em", Direction.HIGHER, 1.0, 1, 42, 0.0, (profile_of(),))
    assert [s.block for s in anchor_spaces([Site(1, 2, "t")], profile, {})] == [1]
    with pytest.raises(DataError, match="to be held to u, which the profile of ada/math does not have"):
        anchor_spaces([Site(1, 2, "u")], profile, {})


def test_where_nothing_is_known_there_is_no_loss_but_no_failure():
    batch = batch_of({7: 3})
    terms = ActivationAnchoringLoss([space()], FLAT)({}, batch, 0)
    assert float(terms.total) == 0 and not terms.blocks
