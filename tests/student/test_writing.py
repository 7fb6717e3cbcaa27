"""Answers token by token: the long way writes what the short one does, and what is chosen meanwhile changes nothing."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from nexus_core.student.decode import Writing, can_decode, greedy
from nexus_core.student.sampling import Sampler

ROOM = 16
DYNAMIC = {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}


def batch_of(rows: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 259, (rows, 9), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % 8] = 0
    return {"input_ids": ids * mask, "attention_mask": mask}


def collected(writing, rows: int) -> list[list[int]]:
    texts: list[list[int]] = [[] for _ in range(rows)]
    for new in writing:
        for row, token in new:
            texts[row].append(token)
    return texts


@pytest.mark.parametrize("capability", [None, "reasoning"])
def test_the_long_way_writes_what_generate_does(make, capability):
    student = make(trained=True, **DYNAMIC)
    assert not can_decode(student)
    batch = batch_of(5)
    student.choose(capability)
    student.generation_config.eos_token_id = None
    expected = student.generate(**batch, max_new_tokens=ROOM, do_sample=False, pad_token_id=0)[:, 9:].tolist()
    assert greedy(student, batch, ROOM, set()) == expected
    ends = {row[2] for row in expected[:4]}
    cut = [row[: 1 + next((i for i, token in enumerate(row) if token in ends), len(row))] for row in expected]
    assert greedy(student, batch, ROOM, ends) == cut
    assert len({len(row) for row in cut}) > 1


@pytest.mark.parametrize("backbone", [{}, DYNAMIC], ids=["short way", "long way"])
@pytest.mark.parametrize("other", [None, "code"])
def test_another_adapter_chosen_meanwhile_changes_nothing(make, backbone, other):
    student = make(trained=True, **backbone)
    student.choose("reasoning")
    batch = batch_of(3)
    expected = greedy(student, batch, ROOM, set())
    writing = Writing(student, batch, ROOM, set())
    begun = collected(islice(writing, 4), 3)
    student.choose(other)
    rest = collected(writing, 3)
    assert [a + b for a, b in zip(begun, rest, strict=True)] == expected
    assert student.chosen == other
    assert greedy(student, batch, ROOM, set()) != expected


def test_two_answers_may_be_written_in_turns(make):
    student = make(trained=True)
    batches = [batch_of(1), batch_of(2)]
    expected = []
    for batch, capability in zip(batches, ["reasoning", "code"], strict=True):
        student.choose(capability)
        expected.append(greedy(student, batch, ROOM, set()))
    writings = []
    for batch, capability in zip(batches, ["reasoning", "code"], strict=True):
        student.choose(capability)
        writings.append(Writing(student, batch, ROOM, set()))
    found = [[[]], [[], []]]
    for steps in zip(*writings, strict=True):
        for texts, new in zip(found, steps, strict=True):
            for row, token in new:
                texts[row].append(token)
    assert found == expected


def test_a_row_that_is_ended_is_written_no_further(make):
    student = make(trained=True)
    batch = batch_of(4)
    expected = greedy(student, batch, ROOM, set())
    writing = Writing(student, batch, ROOM, set())
    begun = collected(islice(writing, 3), 4)
    for row in (0, 2, 3):
        writing.end(row)
    rest = collected(writing, 4)
    assert begun == [row[:3] for row in expected]
    assert rest == [[], expected[1][3:], [], []]
    assert next(writing, None) is None


def test_all_of_them_ended_is_the_end(make):
    writing = Writing(make(), batch_of(2), ROOM, set())
    next(writing)
    writing.end(0)
    writing.end(1)
    assert next(writing, None) is None


# --- sampling ----------------------------------------------------------------------------------------------------------


def test_draws_have_the_shares_of_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    sampler = Sampler(0.7, 1.0, 42)
    draws = torch.stack([sampler(logits, [0])[0] for _ in range(4000)])
    expected = (logits[0].double() / 0.7).softmax(-1)
    found = draws.bincount(minlength=4) / len(draws)
    assert (found - expected).abs().max() < 0.03  # four standard deviations of a share of one half


def test_top_p_keeps_the_likeliest_that_reach_it():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()[None]
    for top_p, allowed in ((0.4, {0}), (0.5, {0}), (0.6, {0, 1}), (0.9, {0, 1, 2}), (1.0, {0, 1, 2, 3})):
        sampler = Sampler(1.0, top_p, 1)
        assert {int(sampler(logits, [0])) for _ in range(400)} == allowed


def test_a_row_is_drawn_the_same_alone_and_in_a_batch(make):
    student = make(trained=True)
    student.choose("code")
    batch = batch_of(4)
    together = collected(Writing(student, batch, ROOM, set(), Sampler(1.3, 0.9, 5)), 4)
    for row in range(4):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        assert collected(Writing(student, alone, ROOM, set(), Sampler(1.3, 0.9, 5)), 1) == [together[row]]
    assert together == collected(Writing(student, batch, ROOM, set(), Sampler(1.3, 0.9, 5)), 4)
    assert together != collected(Writing(student, batch, ROOM, set(), Sampler(1.3, 0.9, 6)), 4)
    assert together != greedy(student, batch, ROOM, set())
