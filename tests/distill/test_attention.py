"""Attention anchoring: 0 for a perfect student, its gradient where a head looks elsewhere, and nothing from padding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.distill.attention import (
    AttentionAnchoringLoss,
    AttentionSettings,
    two_event_kl,
)
from nexus_core.distill.attention_targets import AttentionTarget, MappedHead, attention_targets, map_heads
from nexus_core.distill.batches import collate
from nexus_core.distill.looks import TAUGHT, looking
from nexus_core.distill.targets import SparseTargets, TrainingRow
from nexus_core.errors import UsageError
from nexus_core.hf import HFTeacher
from nexus_core.hf.attention import attention_by
from nexus_core.profiling.attention import attention_summaries
from nexus_core.profiling.cache import TeacherSignal, byte_offsets
from nexus_core.profiling.scoring import Baseline, Scorer
from nexus_core.student.arch import Site
from nexus_core.testing.tiny import SMALL, byte_tokenizer
from nexus_core.types import CapabilityMetric, Category, Detection, Direction, GenerateOptions, ModelSource, Sample

CONSTANT = AttentionSettings(1.0, 1.0, 0)


def llama(seed: int = 0, scale: float = 0.3) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, pad_token_id=0, eos_token_id=2, **SMALL)).eval()
    with torch.no_grad():  # at initialisation every head looks evenly
        for parameter in model.parameters():
            parameter.add_(scale * torch.randn(parameter.shape))
    return model


class Echo(CapabilityMetric):
    name, metric, direction, options = "echo", "match", Direction.HIGHER, GenerateOptions(max_new_tokens=6)

    def samples(self, request):
        raise AssertionError("not asked for here")

    def score(self, sample, output):
        return 0.0


@pytest.fixture(scope="module")
def teacher() -> HFTeacher:
    detection = Detection(Category.TRANSFORMERS, "llama", 1.0, "test")
    return HFTeacher(ModelSource(Path("tiny")), detection, llama(), byte_tokenizer())


@pytest.fixture(scope="module")
def rows(teacher) -> list[TrainingRow]:
    """What the teacher's heads 2 and 1 of block 1 do, as rows for a student with the same tokenizer."""
    samples = [Sample(str(i), prompt, "") for i, prompt in enumerate(["12 + 30 =", "a", "how much is it"])]
    scorer = Scorer(teacher, Echo(), samples)
    # What a random model writes is no text; it looks somewhere while it reads these answers all the same.
    answers = ["42 or 43", "bcd", "2 EUR "]
    tokens = [[*teacher.processor(answer)["input_ids"], 2] for answer in answers]
    scorer.baseline = Baseline(tokens, answers, np.zeros(3))
    offsets = [np.array([[min(i, n), min(i + 1, n)] for i in range(n + 1)], np.int32) for n in (8, 3, 6)]
    summaries = attention_summaries(scorer, {"model.layers.1": (2, 1)}, offsets)["model.layers.1"]
    mapping = map_heads([Site(1, 4, "model.layers.1")], {"model.layers.1": (2, 1)}, 4)
    made = []
    for i, sample in enumerate(samples):
        ids = np.asarray(tokens[i], np.int32)
        signal = TeacherSignal(
            sample.digest,
            sample.prompt,
            scorer.baseline.outputs[i],
            ids,
            offsets[i],
            attention={"model.layers.1": summaries[i]},
        )
        prompt = teacher.processor(sample.prompt)["input_ids"]
        (spans,) = teacher.prompt_spans([sample], Echo.options)
        targets = attention_targets(signal, mapping, byte_offsets(sample.prompt, spans), offsets[i])
        packed = {block: target.packed() for block, target in targets.items()}
        made.append(
            TrainingRow(
                sample.digest,
                np.asarray(prompt, np.int32),
                ids,
                SparseTargets.none(len(ids)),
                np.zeros(len(ids)),
                {},
                packed,
            )
        )
    return made


def own_heads(*heads: int) -> dict[int, tuple[MappedHead, ...]]:
    return {1: tuple(MappedHead(1, head, "model.layers.1", head) for head in heads)}


def measured(model, batch, mapping, step: int = 0, boost: float = 1.0):
    loss = AttentionAnchoringLoss(mapping, CONSTANT)
    return loss(answered(model, batch, loss), batch, step, boost)


def answered(model, batch, loss):
    looks = loss.asks(batch)
    with attention_by(model, TAUGHT), looking(model, looks):
        model.model(input_ids=batch.input_ids, use_cache=False)
    return looks


def test_a_student_that_looks_like_its_teacher_has_zero(teacher, rows):
    batch = collate(rows)
    assert batch.attention[1][1].sum() > 10
    terms = measured(teacher.model, batch, own_heads(2, 1))
    assert 0 <= float(terms.total) < 1e-5, "half precision of the stored mass is all that is left"
    assert float(measured(teacher.model, batch, own_heads(1, 2)).total) > 0.01, "other heads do not look there"
    assert float(measured(llama(seed=7), batch, own_heads(2, 1)).total.detach()) > 0.01


def test_padding_counts_nothing(rows):
    student = llama(seed=7)
    longer = collate(rows, length=60)
    plain = measured(student, collate(rows), own_heads(0, 1)).total
    torch.testing.assert_close(measured(student, longer, own_heads(0, 1)).total, plain)
    longer.input_ids[longer.attention_mask == 0] = 77
    torch.testing.assert_close(measured(student, longer, own_heads(0, 1)).total, plain)
    alone = [measured(student, collate([row]), own_heads(0, 1)).total for row in rows]
    mass = [float(row.attention[1].values[:, 4:].sum()) for row in rows]
    together = sum(m * one for m, one in zip(mass, alone, strict=True)) / sum(mass)
    torch.testing.assert_close(plain, together)


def test_the_divergence_is_that_of_two_events():
    torch.manual_seed(0)
    looks = torch.rand(5, 2, 9).softmax(-1)
    start = torch.randint(0, 5, (5, 2)).float()
    stop = start + torch.randint(1, 4, (5, 2))
    mass = torch.rand(5, 2)
    mass[0, 0], mass[1, 1] = 1.0, 0.0
    q = torch.tensor([[float(looks[n, h, int(start[n, h]) : int(stop[n, h])].sum()) for h in (0, 1)] for n in range(5)])
    expected = torch.distributions.kl_divergence(torch.distributions.Bernoulli(mass), torch.distributions.Bernoulli(q))
    torch.testing.assert_close(two_event_kl(looks, start, stop, mass), expected, atol=1e-5, rtol=1e-4)
    same = two_event_kl(looks, start, stop, q)
    assert same.abs().max() < 1e-6


def test_a_head_that_looks_elsewhere_feels_a_full_gradient():
    """At a mass of 1e-9 the logit of the right place is still pulled by about 1: no clamp and no rounding takes it away."""
    logits = torch.zeros(1, 1, 8)
    logits[..., 3] = -20.7
    logits.requires_grad_()
    two_event_kl(
        logits.softmax(-1), torch.tensor([[3.0]]), torch.tensor([[4.0]]), torch.tensor([[1.0]])
    ).sum().backward()
    assert -1.01 < float(logits.grad[0, 0, 3]) < -0.99


def test_training_moves_a_head_to_the_place(rows):
    """Only the loss, only the projections of queries and keys: the mapped heads come to look where the teacher does."""
    student, batch = llama(seed=7, scale=0.05), collate(rows)
    attention = student.model.layers[1].self_attn
    optimizer = torch.optim.Adam([attention.q_proj.weight, attention.k_proj.weight], lr=0.03)
    losses = []
    for _ in range(60):
        terms = measured(student, batch, own_heads(0, 1))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
        losses.append(float(terms.total.detach()))
    assert losses[-1] < 0.2 * losses[0]


def test_weights_of_half_precision_do(rows):
    student, batch = llama(seed=7), collate(rows)
    exact = measured(student, batch, own_heads(0, 1)).total.detach()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = measured(student, batch, own_heads(0, 1)).total.detach()
    assert rough.dtype == torch.float32 and abs(float(rough) - float(exact)) < 0.05 * float(exact)


def test_beta_falls_and_recovery_raises_it(rows):
    settings = AttentionSettings(0.4, 0.1, 10)
    assert [settings.at(step) for step in (0, 5, 10, 99)] == pytest.approx([0.4, 0.25, 0.1, 0.1])
    student, batch = llama(seed=7), collate(rows)
    loss = AttentionAnchoringLoss(own_heads(0, 1), settings)
    looks = answered(student, batch, loss)
    first, last = loss(looks, batch, 0), loss(looks, batch, 10, boost=1.2)
    torch.testing.assert_close(first.total / 0.4, last.total / 0.12)
    torch.testing.assert_close(first.blocks[1], (first.total / 0.4).detach())
    for wrong in ((0.1, 0.4, 10), (0.1, -0.1, 10), (0.1, 0.1, -1)):
        with pytest.raises(UsageError, match="beta"):
            AttentionSettings(*wrong)


def test_a_batch_without_targets_costs_nothing(rows):
    bare = [TrainingRow(r.digest, r.prompt_ids, r.answer_ids, r.kl, r.entropy) for r in rows]
    terms = measured(llama(seed=7), collate(bare), own_heads(0, 1))
    assert float(terms.total.detach()) == 0 and terms.blocks == {}
    mixed = measured(llama(seed=7), collate([rows[0], bare[2]]), own_heads(0, 1))
    torch.testing.assert_close(mixed.total, measured(llama(seed=7), collate(rows[:1]), own_heads(0, 1)).total)


def test_what_does_not_fit_is_said(rows):
    student, batch = llama(seed=7), collate(rows)
    loss = AttentionAnchoringLoss(own_heads(0, 1), CONSTANT)
    looks = loss.asks(batch)
    with looking(student, looks):  # by its own attention, which says nothing
        student.model(input_ids=batch.input_ids)
    assert not hasattr(student.model.layers[1].self_attn, "look")
    with pytest.raises(UsageError, match="block 1 did not say where it looks"):
        loss(looks, batch, 0)
    other = AttentionAnchoringLoss(own_heads(0), CONSTANT)
    with pytest.raises(UsageError, match="for the heads"):
        other(answered(student, batch, other), batch, 0)


def test_positions_are_exact_in_long_rows():
    place = np.array([[16_000_001]], np.int32)
    packed = AttentionTarget(place, place + 1, np.ones((1, 1), np.float32), np.ones((1, 1), bool)).packed()
    assert packed.values[0, :2].astype(np.int64).tolist() == [16_000_001, 16_000_002]


def test_the_student_itself_is_held(rows):
    from nexus_core.student.config import NexusConfig
    from nexus_core.student.model import NexusForCausalLM

    torch.manual_seed(7)
    student, batch = (
        NexusForCausalLM(NexusConfig(vocab_size=259, pad_token_id=0, eos_token_id=2, **SMALL)),
        collate(rows),
    )
    own = student.config._attn_implementation
    terms = measured(student, batch, own_heads(0, 1))
    terms.total.backward()
    assert float(terms.blocks[1]) > 0 and student.config._attn_implementation == own
    grads = {name: float(p.grad.norm()) for name, p in student.named_parameters() if p.grad is not None}
    assert grads["model.layers.1.self_attn.q_proj.weight"] > 0 and grads["model.layers.0.mlp.up_proj.weight"] > 0
    assert "lm_head.weight" not in grads and "model.layers.1.self_attn.v_proj.weight" not in grads
