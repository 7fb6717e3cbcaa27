"""Batches are a pure function of rows, seed and position, padded on the right, and lose nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_core.distill.batches import Batches, RowOrder, collate
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.errors import DataError, UsageError


def row(number, prompt, answer, k=2, anchors=True):
    rng = np.random.default_rng(number)
    masses = rng.dirichlet(np.ones(k + 1), answer)
    kl = SparseTargets(
        np.stack([rng.choice(50, k, replace=False) for _ in range(answer)]).astype(np.int32),
        np.log(masses[:, :k]).astype(np.float32),
        np.log(masses[:, k]).astype(np.float32),
        rng.random(answer) < 0.7,
    )
    held = {1: AnchorTarget(rng.normal(size=(answer, 3)).astype(np.float32), rng.random(answer) < 0.5)}
    ids = rng.integers(0, 50, prompt + answer).astype(np.int32)
    return TrainingRow(f"{number:064d}", ids[:prompt], ids[prompt:], kl, kl.entropy(), held if anchors else {})


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    return [row(i, int(rng.integers(1, 40)), int(rng.integers(1, 9)), int(rng.integers(1, 4))) for i in range(203)]


def test_positions_are_row_major_and_hold_what_their_row_says(rows):
    batch = collate([*rows[:5], row(900, 4, 3, anchors=False)])
    assert batch.rows == 6 and batch.positions == sum(len(r.answer_ids) for r in rows[:5]) + 3
    places = batch.answer.nonzero().tolist()
    n = 0
    for b, r in enumerate(rows[:5]):
        for j, token in enumerate(r.answer_ids):
            at = len(r.prompt_ids) - 1 + j
            assert places[n] == [b, at] and batch.labels[n] == token
            assert batch.input_ids[b, at] == np.concatenate([r.prompt_ids, r.answer_ids])[at]
            k = r.kl.ids.shape[1]
            assert batch.kl_ids[n].tolist() == r.kl.ids[j].tolist() + [-1] * (batch.kl_ids.shape[1] - k)
            assert np.allclose(batch.kl_log_probs[n, :k], r.kl.log_probs[j])
            assert torch.isneginf(batch.kl_log_probs[n, k:]).all()
            assert batch.kl_rest[n] == r.kl.rest[j] and batch.kl_has[n] == r.kl.has[j]
            assert batch.entropy[n] == r.entropy[j]
            values, has = batch.anchors[1]
            assert values[n].tolist() == r.anchors[1].values[j].tolist() and has[n] == r.anchors[1].has[j]
            n += 1
    assert not batch.anchors[1][1][n:].any()  # a row without an anchor is held to nothing


def test_padding_is_on_the_right_and_masked(rows):
    batch = collate(rows[:7], pad_id=49, length=80)
    assert batch.input_ids.shape == (7, 80)
    for b, r in enumerate(rows[:7]):
        assert batch.attention_mask[b].tolist() == [1] * len(r) + [0] * (80 - len(r))
        assert (batch.input_ids[b, len(r) :] == 49).all() and not batch.answer[b, len(r) :].any()
    assert batch.tokens == sum(map(len, rows[:7]))


def flat(batch):
    return batch.indices, batch.input_ids.tolist(), batch.labels.tolist()


@pytest.mark.parametrize("how", [{"batch_size": 16}, {"batch_tokens": 400}])
def test_a_batch_depends_on_seed_and_position_alone(rows, how):
    one, other = Batches(rows, seed=42, **how), Batches(rows, seed=42, **how)
    there = [flat(one.at(i)) for i in range(60)]
    back = [flat(other.at(i)) for i in reversed(range(60))][::-1]
    assert there == back == [flat(b) for b, _ in zip(Batches(rows, seed=42, **how).start(0), range(60), strict=False)]
    assert flat(other.at(37)) == there[37]
    assert [b.indices for b in (Batches(rows, seed=43, **how).at(i) for i in range(60))] != [b[0] for b in there]


@pytest.mark.parametrize("how", [{"batch_size": 16}, {"batch_tokens": 400}])
def test_an_epoch_sees_every_row_once_and_epochs_differ(rows, how):
    batches = Batches(rows, seed=42, **how)
    seen, position, epochs = [], 0, []
    for _ in range(2):
        epoch = batches.epoch_of(position)
        here = []
        while batches.epoch_of(position) == epoch:
            here += batches.indices(position)
            position += 1
        seen.append(here)
        epochs.append(epoch)
    assert epochs == [0, 1]
    assert sorted(seen[0]) == sorted(seen[1]) == list(range(len(rows)))
    assert seen[0] != seen[1]


def test_lengths_are_alike_in_a_batch_and_sizes_as_asked(rows):
    many = [row(i, 1 + i % 97, 3) for i in range(2000)]
    sized = Batches(many, seed=1, batch_size=32)
    batches = [sized.at(i) for i in range(63)]
    assert {b.rows for b in batches} <= {31, 32}  # no runt at the end of an epoch
    padded = sum(b.input_ids.numel() for b in batches)
    assert sum(b.tokens for b in batches) / padded > 0.9
    by_tokens = Batches(rows, seed=1, batch_tokens=400)
    for i in range(40):
        batch = by_tokens.at(i)
        assert batch.input_ids.numel() <= 400


def test_a_row_longer_than_the_budget_is_a_batch_of_its_own():
    batches = Batches([row(0, 30, 5), row(1, 3, 2), row(2, 3, 2)], seed=0, batch_tokens=10)
    assert sorted(sorted(batches.indices(i)) for i in range(2)) == [[0], [1, 2]]


def test_what_makes_no_batch_is_refused(rows):
    with pytest.raises(UsageError):
        Batches([], seed=0, batch_size=4)
    with pytest.raises(UsageError):
        Batches(rows, seed=0)
    with pytest.raises(UsageError):
        Batches(rows, seed=0, batch_size=4, batch_tokens=4)
    with pytest.raises(UsageError):
        Batches(rows, seed=0, batch_size=4).at(-1)
    kl = SparseTargets.none(2)
    with pytest.raises(DataError):
        TrainingRow("x", np.zeros(0, np.int32), np.zeros(2, np.int32), kl, kl.entropy())
    with pytest.raises(DataError):
        TrainingRow("x", np.zeros(1, np.int32), np.zeros(3, np.int32), kl, kl.entropy())


def test_to_moves_every_tensor(rows):
    moved = collate(rows[:3]).to("meta")
    assert moved.input_ids.is_meta and moved.anchors[1][0].is_meta and moved.kl_has.is_meta
    assert moved.indices == (0, 1, 2)


def test_other_answers_are_met_in_the_same_order(rows):
    shorter = [row(i, len(r.prompt_ids), 1) for i, r in enumerate(rows)]
    lengths = [len(r) for r in rows]
    own, others = (
        Batches(rows, seed=1, batch_tokens=90),
        Batches(shorter, seed=1, batch_tokens=90, order=RowOrder(tuple(lengths))),
    )
    assert [own.indices(i) for i in range(60)] == [others.indices(i) for i in range(60)]
    without = Batches(shorter, seed=1, batch_tokens=90)
    assert [own.indices(i) for i in range(60)] != [without.indices(i) for i in range(60)]
    with pytest.raises(UsageError, match="2 lengths for 203 rows"):
        Batches(rows, seed=1, batch_size=4, order=RowOrder((1, 2)))


def test_a_curriculum_starts_with_the_shortest_rows_and_ends_with_all():
    rows = [row(length, length, 2) for length in range(4, 104)]
    batches = Batches(rows, seed=1, batch_size=5, order=RowOrder(curriculum=60))
    longest = [max(len(rows[i]) for i in batches.indices(position)) for position in range(120)]
    assert max(longest[:4]) <= len(rows[19])
    assert max(longest[:30]) < len(rows[-1])
    assert max(longest[60:]) == len(rows[-1])
    growing = [batches.at(position).growing for position in range(120)]
    last = growing.index(False)
    assert last >= 60 and growing == [True] * last + [False] * (120 - last)  # to the end of the epoch that it ends in
    again = Batches(rows, seed=1, batch_size=5, order=RowOrder(curriculum=60))
    assert [again.indices(p) for p in (100, 3, 59)] == [batches.indices(p) for p in (100, 3, 59)]
