"""The training loss: logits where they are needed, every term by name, padding counts for nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nexus_core.distill.attention_targets import MappedHead
from nexus_core.distill.batches import collate
from nexus_core.distill.objective import DistillObjective, Moment, autocast, computes_bf16
from nexus_core.distill.targets import AnchorTarget


def value(tensor):
    return tensor.detach().item()


@pytest.fixture
def student(tiny):
    student = tiny.new_student()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in student.adapters["letters"].parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    student.choose("letters")
    return student.train()


def test_it_is_the_sum_of_its_terms_and_the_same_as_with_all_logits(tiny, student):
    batch, objective = collate(tiny.new_rows(8, 1)), DistillObjective(tiny.settings(), [tiny.SPACE])
    terms = objective(student, batch, Moment(0))
    logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]
    expected = torch.nn.functional.cross_entropy(logits, batch.labels)
    assert value(terms.parts["nll"]) == pytest.approx(value(expected), rel=1e-5)
    assert value(terms.total) == pytest.approx(value(terms.parts["output"] + terms.parts["anchor"]), rel=1e-6)
    assert value(terms.total) == pytest.approx(value(terms.watched), rel=1e-6)  # without cached logits, ce is nll
    assert terms.errors.keys() == {tiny.BLOCK}


def test_more_padding_gives_the_same_loss(tiny, student):
    rows, objective = tiny.new_rows(8, 1), DistillObjective(tiny.settings(), [tiny.SPACE])
    one, two = (objective(student, collate(rows, length=length), Moment(0)) for length in (0, 40))
    assert value(one.total) == pytest.approx(value(two.total), abs=1e-6)
    assert value(one.anchor) == pytest.approx(value(two.anchor), abs=1e-6)


def test_the_boost_raises_the_anchor_and_is_not_watched(tiny, student):
    batch, objective = collate(tiny.new_rows(8, 1)), DistillObjective(tiny.settings(), [tiny.SPACE])
    plain, boosted = objective(student, batch, Moment(0)), objective(student, batch, Moment(0, boost=4.0))
    assert value(boosted.parts["anchor"]) == pytest.approx(4 * value(plain.parts["anchor"]), rel=1e-5)
    assert value(boosted.watched) == pytest.approx(value(plain.watched), rel=1e-5)
    assert value(boosted.anchor) == pytest.approx(value(plain.anchor), rel=1e-6)


def test_the_anchor_weight_falls_to_its_floor(tiny, student):
    settings = tiny.settings(100)
    batch, objective = collate(tiny.new_rows(8, 1)), DistillObjective(settings, [tiny.SPACE])
    anchors = [value(objective(student, batch, Moment(step)).parts["anchor"]) for step in (0, 30, 60, 100)]
    ratio = settings.loss.alpha_floor / settings.loss.alpha_hidden
    assert anchors[2] == anchors[3] == pytest.approx(ratio * anchors[0], rel=1e-5)
    assert anchors[1] == pytest.approx((1 + ratio) / 2 * anchors[0], rel=1e-5)


def test_without_anchoring_nothing_is_recorded_or_watched(tiny, student):
    batch, settings = collate(tiny.new_rows(8, 1)), tiny.settings()
    off = replace(settings, loss=replace(settings.loss, alpha_hidden=0.0, alpha_floor=0.0))
    for objective in (DistillObjective(settings), DistillObjective(off, [tiny.SPACE])):
        terms = objective(student, batch, Moment(0))
        assert terms.anchor is None
        assert terms.errors == {}
        assert "anchor" not in terms.parts


def test_parts_of_a_step_add_up_to_the_whole(tiny, student):
    rows = tiny.new_rows(8, 1)
    settings = replace(tiny.settings(), loss=replace(tiny.settings().loss, prompt_weight=0.1))
    objective, whole = DistillObjective(settings, [tiny.SPACE]), collate(rows)
    parts = [collate(rows[:4]), collate(rows[4:])]
    moment = Moment(0, positions=whole.positions)
    total = sum(value(objective(student, part, moment).total) for part in parts)
    assert total == pytest.approx(value(objective(student, whole, Moment(0)).total), rel=0.02)


def test_the_prompt_is_text_too_where_that_is_asked_for(tiny, student):
    settings = tiny.settings()
    objective = DistillObjective(replace(settings, loss=replace(settings.loss, prompt_weight=0.5)))
    batch = collate(tiny.new_rows(8, 1))
    terms, plain = objective(student, batch, Moment(0)), DistillObjective(settings)(student, batch, Moment(0))
    logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    losses = [
        torch.nn.functional.cross_entropy(logits[row, t], batch.input_ids[row, t + 1])
        for row in range(8)
        for t in range(batch.input_ids.shape[1] - 1)
        if batch.attention_mask[row, t + 1] and not batch.answer[row, t]
    ]
    assert value(terms.parts["prompt"]) == pytest.approx(0.5 * value(torch.stack(losses).mean()), rel=1e-5)
    assert value(terms.total) == pytest.approx(value(plain.total) + value(terms.parts["prompt"]), rel=1e-5)


def test_attention_is_anchored_and_the_fast_kernels_come_back(tiny, student):
    rows = []
    for row in tiny.new_rows(8, 1):  # head 2 is to look at the letter, whatever it predicts
        n = len(row.answer_ids)
        look = AnchorTarget(np.tile(np.array([0, 1, 0.9], np.float32), (n, 1)), np.ones(n, np.bool_))
        rows.append(replace(row, attention={tiny.BLOCK: look}))
    settings = tiny.settings()
    settings = replace(settings, loss=replace(settings.loss, beta_attention=0.5, beta_floor=0.5))
    heads = {tiny.BLOCK: (MappedHead(tiny.BLOCK, 2, "teacher.0", 0),)}
    batch, objective = collate(rows), DistillObjective(settings, [tiny.SPACE], heads)
    before = student.config._attn_implementation
    terms = objective(student, batch, Moment(0))
    assert student.config._attn_implementation == before != "eager"
    error = value(terms.parts[f"attention_error/{tiny.BLOCK}"])
    assert error > 0
    assert value(terms.parts["attention"]) == pytest.approx(0.5 * error, rel=1e-5)
    plain = DistillObjective(tiny.settings(), [tiny.SPACE])(student, batch, Moment(0))
    assert value(terms.total) == pytest.approx(value(plain.total) + 0.5 * error, rel=1e-4)
    assert "attention" not in plain.parts
    optimizer = torch.optim.Adam(student.adapters["letters"].parameters(), lr=0.02)
    for _ in range(20):
        optimizer.zero_grad()
        terms = objective(student, batch, Moment(0))
        terms.total.backward()
        optimizer.step()
    assert value(terms.parts[f"attention_error/{tiny.BLOCK}"]) < 0.5 * error


def test_precision_is_a_choice():
    x = torch.randn(4, 4)
    for precision, expected in (
        ("fp32", torch.float32),
        ("bf16", torch.bfloat16),
        ("auto", torch.bfloat16 if computes_bf16("cpu") else torch.float32),
    ):
        with autocast("cpu", precision):
            assert (x @ x).dtype is expected
