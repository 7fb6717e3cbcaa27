"""The output loss: 0 for a perfect student, blind to padding, and a proper KL in the coarsened event space."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.distill.batches import collate
from nexus_core.distill.losses import OutputLoss, capability_scales, event_log_probs
from nexus_core.distill.targets import SparseTargets, TrainingRow
from nexus_core.errors import UsageError

V, K = 60, 8


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=V,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.3,  # so that its distributions are far from uniform
            pad_token_id=0,
        )
    ).eval()


def teacher_forced(model, n=6):
    """Rows whose teacher is the model, labels drawn among its listed tokens, contexts consistent with them."""
    rng = np.random.default_rng(7)
    found = []
    for i in range(n):
        prompt, answer = int(rng.integers(2, 20)), int(rng.integers(1, 8))
        ids = rng.integers(1, V, prompt).tolist()
        listed, log_probs = [], []
        for _ in range(answer):
            with torch.no_grad():
                top = model(torch.tensor([ids])).logits[0, -1].log_softmax(0).topk(K)
            listed.append(top.indices.numpy().astype(np.int32))
            log_probs.append(top.values.numpy())
            ids.append(int(top.indices[i % K]))
        values = np.stack(log_probs)
        rest = np.log1p(-np.exp(values.astype(np.float64)).sum(1)).astype(np.float32)
        kl = SparseTargets(np.stack(listed), values, rest, np.ones(answer, np.bool_))
        tokens = np.array(ids, np.int32)
        found.append(TrainingRow(str(i), tokens[:prompt], tokens[prompt:], kl, kl.entropy()))
    return found


def logits_of(model, batch):
    return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 4.0])
def test_a_perfect_student_has_no_loss(model, temperature):
    batch = collate(teacher_forced(model))
    terms = OutputLoss(1.0, 1.0, temperature, 0.0, 0.0)(logits_of(model, batch), batch)
    assert abs(float(terms.ce)) < 1e-5 and abs(float(terms.kl)) < 1e-5 and abs(float(terms.total.detach())) < 1e-5
    assert float(terms.nll) > 0.5  # the teacher itself is not certain: nothing was trivially 0
    wrong = OutputLoss(1.0, 1.0, temperature, 0.0, 0.0)(torch.zeros(batch.positions, V), batch)
    assert float(wrong.kl) > 0.01 and abs(float(wrong.ce)) > 0.01


def test_a_perfect_student_has_no_gradient_from_the_divergence(model):
    batch = collate(teacher_forced(model))
    logits = logits_of(model, batch).detach().requires_grad_()
    OutputLoss(0.0, 1.0, 2.0, 0.0, 0.0)(logits, batch).total.backward()
    assert logits.grad.abs().max() < 1e-5


def test_more_padding_changes_nothing(model):
    rows = teacher_forced(model)
    loss = OutputLoss(1.0, 0.5, 2.0, 0.05, 0.5)
    generator = torch.Generator().manual_seed(0)
    student = LlamaForCausalLM(model.config).eval()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.normal_(0, 0.2, generator=generator)
    found = []
    for length, pad in ((0, 0), (64, 0), (128, 17)):
        batch = collate(rows, pad_id=pad, length=length)
        student.zero_grad()
        terms = loss(logits_of(student, batch), batch)
        terms.total.backward()
        gradient = torch.cat([p.grad.flatten() for p in student.parameters()])
        found.append((float(terms.total.detach()), float(terms.kl), float(terms.ce), gradient))
    for other in found[1:]:
        assert other[:3] == pytest.approx(found[0][:3], abs=1e-6)
        assert torch.allclose(other[3], found[0][3], atol=1e-5)
    assert found[0][0] > 0.1


def test_events_are_the_listed_tokens_and_the_exact_rest():
    logits = torch.randn(5, V, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 4
    ids = torch.stack([torch.randperm(V, generator=torch.Generator().manual_seed(i))[:6] for i in range(5)])
    ids[1, 4:] = -1
    ids[2] = -1
    events = event_log_probs(logits, ids).exp()
    full = logits.softmax(1)
    for n in range(5):
        listed = ids[n][ids[n] >= 0]
        assert torch.allclose(events[n, : len(listed)], full[n, listed])
        assert events[n, len(listed) : -1].sum() == 0
        assert torch.allclose(events[n, -1], 1 - full[n, listed].sum())


def test_the_divergence_is_that_of_the_events_and_its_gradient_is_finite_when_all_tokens_are_listed():
    rng = np.random.default_rng(0)
    masses = rng.dirichlet(np.ones(5), 3)
    ids = np.tile(np.arange(4), (3, 1)).astype(np.int32)
    kl = SparseTargets(ids, np.log(masses[:, :4]).astype("f4"), np.log(masses[:, 4]).astype("f4"), np.ones(3, np.bool_))
    batch = collate([TrainingRow("x", np.zeros(1, np.int32), np.array([0, 1, 2], np.int32), kl, kl.entropy())])
    logits = torch.randn(3, 7, generator=torch.Generator().manual_seed(2), requires_grad=True)
    full = logits.detach().softmax(1).double().numpy()
    own = np.concatenate([full[:, :4], full[:, 4:].sum(1, keepdims=True)], 1)
    expected = (masses * np.log(masses / own)).sum(1).mean()
    assert float(OutputLoss(0, 1, 1, 0, 0)(logits, batch).kl) == pytest.approx(expected, rel=1e-5)
    tempered = [(p**0.5 / (p**0.5).sum(1, keepdims=True)) for p in (masses, own)]
    expected = 4 * (tempered[0] * np.log(tempered[0] / tempered[1])).sum(1).mean()
    assert float(OutputLoss(0, 1, 2, 0, 0)(logits, batch).kl) == pytest.approx(expected, rel=1e-5)
    small = torch.randn(3, 4, requires_grad=True)  # the list is the whole vocabulary: nothing is left for the rest
    terms = OutputLoss(1, 1, 2, 0, 0)(small, batch)
    terms.total.backward()
    assert torch.isfinite(terms.total) and torch.isfinite(small.grad).all()


def test_certain_positions_carry_no_divergence_and_unknown_ones_only_cross_entropy(model):
    rows = teacher_forced(model)
    batch = collate(rows)
    logits = torch.zeros(batch.positions, V)
    assert float(OutputLoss(1, 1, 2, 50.0, 60.0)(logits, batch).kl) == 0
    middle = float(batch.entropy.median())
    loss = OutputLoss(1, 1, 2, middle, middle)
    assert loss.weights(batch).tolist() == (batch.entropy > middle).float().tolist()
    ramp = OutputLoss(1, 1, 2, 0.0, 2 * middle).weights(batch)
    assert torch.allclose(ramp, (batch.entropy / (2 * middle)).clamp(max=1))
    none = [
        TrainingRow(r.digest, r.prompt_ids, r.answer_ids, SparseTargets.none(len(r.answer_ids)), r.entropy)
        for r in rows
    ]
    bare = collate(none)
    terms = OutputLoss(1, 1, 2, 0, 0)(logits, bare)
    assert float(terms.kl) == 0 and float(terms.ce) == pytest.approx(np.log(V), rel=1e-5)


def test_batches_of_one_step_add_up_to_the_batch_of_all(model):
    rows = teacher_forced(model)
    student = torch.nn.Embedding(V, V)  # a bigram model will do
    loss = OutputLoss(1.0, 1.0, 2.0, 0.0, 0.1)
    whole, parts = collate(rows), [collate(rows[:1]), collate(rows[1:])]
    full = loss(student(whole.input_ids)[whole.answer], whole)
    n = whole.positions
    some = [loss(student(b.input_ids)[b.answer], b, positions=n) for b in parts]
    assert float(sum(t.total for t in some).detach()) == pytest.approx(float(full.total.detach()), rel=1e-5)
    doubled = loss(student(whole.input_ids)[whole.answer], whole, scale=2.0)
    assert float(doubled.total.detach()) == pytest.approx(2 * float(full.total.detach()), rel=1e-6)
    assert float(doubled.ce) == float(full.ce)


def test_scales_make_capabilities_start_equal():
    scales = capability_scales({"reasoning": 2.0, "tools": 0.5})
    assert scales["reasoning"] * 2.0 == scales["tools"] * 0.5 == 1.25
    with pytest.raises(UsageError):
        capability_scales({"reasoning": float("nan")})


def test_settings_that_mean_nothing_are_refused():
    for bad in ((0, 0, 1, 0, 0), (1, -1, 1, 0, 0), (1, 1, 0, 0, 0), (1, 1, 1, 1, 0)):
        with pytest.raises(UsageError):
            OutputLoss(*bad)
