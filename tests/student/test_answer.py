"""A student that answers: like a teacher, with its adapter, and leaving itself as it was."""

from __future__ import annotations

import pytest
import torch

from nexus_core.errors import UsageError
from nexus_core.evaluation import Answerer
from nexus_core.hf import HFTeacher
from nexus_core.student.answer import StudentAnswerer
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import Category, Detection, GenerateOptions, ModelSource, Sample

PROMPTS = ["a", "one two three", "The quick brown fox jumps over the lazy dog.", "xyz", "abcdef" * 4]
SAMPLES = [Sample(str(i), prompt, "") for i, prompt in enumerate(PROMPTS)]
OPTIONS = GenerateOptions(max_new_tokens=8, batch_size=3)


@pytest.fixture
def teacher_of(tmp_path):
    """A teacher of the same weights: what an answer should be, by the code that teachers use."""

    def get(model):
        return HFTeacher(
            ModelSource(tmp_path), Detection(Category.TRANSFORMERS, "llama", 0.5, "x"), model, byte_tokenizer()
        )

    return get


def test_without_an_adapter_it_answers_as_a_teacher_of_its_backbone_would(make, teacher_of):
    student = make(trained=True)
    answerer: Answerer = StudentAnswerer(student, byte_tokenizer(), None)
    assert answerer.generate(SAMPLES, OPTIONS) == teacher_of(student.plain()).generate(SAMPLES, OPTIONS)


@pytest.mark.parametrize("capability", ["reasoning", "code"])
def test_with_an_adapter_it_answers_as_the_student_with_it_chosen(make, teacher_of, capability):
    student = make(trained=True)
    answers = StudentAnswerer(student, byte_tokenizer(), capability).generate(SAMPLES, OPTIONS)
    assert answers != StudentAnswerer(student, byte_tokenizer(), None).generate(SAMPLES, OPTIONS)
    student.choose(capability)
    assert answers == teacher_of(student).generate(SAMPLES, OPTIONS)


def test_it_leaves_the_student_as_it_was(make):
    student = make(trained=True).train()
    student.adapters.requires_grad_(True)
    student.choose("code")
    answerer = StudentAnswerer(student, byte_tokenizer(), "reasoning")
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    answerer.generate(SAMPLES, OPTIONS)
    answerer.generate_tokens(SAMPLES, OPTIONS)
    assert torch.equal(torch.rand(2), expected)
    assert student.training
    assert student.chosen == "code"
    assert all(p.requires_grad for p in student.adapters.parameters())


@pytest.mark.parametrize("chosen", ["reasoning", "code"])
def test_it_answers_by_its_own_attention(make, chosen):
    """That of teaching cannot, whoever had chosen this very adapter before."""
    from nexus_core.distill.looks import TAUGHT

    student = make(trained=True)
    expected = StudentAnswerer(student, byte_tokenizer(), "reasoning").generate(SAMPLES, OPTIONS)
    student.set_attn_implementation(TAUGHT)
    student.choose(chosen)
    assert StudentAnswerer(student, byte_tokenizer(), "reasoning").generate(SAMPLES, OPTIONS) == expected
    assert student.config._attn_implementation == TAUGHT
    assert student.chosen == chosen


def test_a_training_step_changes_the_answers_of_the_same_answerer(make, ids):
    student = make(trained=True).train()
    student.choose("reasoning")
    answerer = StudentAnswerer(student, byte_tokenizer(), "reasoning")
    modes = []
    hook = student.model.register_forward_hook(lambda module, args, out: modes.append(module.training))
    before = answerer.generate(SAMPLES, OPTIONS)
    hook.remove()
    assert modes
    assert not any(modes), "what answers is not in training, chosen already or not"
    student(ids, labels=ids).loss.backward()
    torch.optim.AdamW(student.adapters["reasoning"].parameters(), 0.5).step()
    after = answerer.generate(SAMPLES, OPTIONS)
    assert after != before
    fresh = StudentAnswerer(student, byte_tokenizer(), "reasoning")
    student.choose(None)
    assert fresh.generate(SAMPLES, OPTIONS) == after


def test_tokens_end_with_the_end_token_and_begin_with_what_was_begun(make):
    answerer = StudentAnswerer(make(trained=True), byte_tokenizer(), "code")
    options = GenerateOptions(max_new_tokens=6)
    whole = answerer.generate_tokens(SAMPLES, options)
    assert all(len(row) <= 6 for row in whole)
    begun = [row[:2] for row in whole]
    assert answerer.generate_tokens(SAMPLES, options, begun=begun) == whole
    assert answerer.generate_tokens(SAMPLES, options, most=3) == [row[:3] for row in whole]
    assert answerer.decode_tokens(whole, options) == answerer.generate(SAMPLES, options)


def test_stop_strings_and_sampling_work_too(make, teacher_of):
    student = make(trained=True)
    answerer, teacher = StudentAnswerer(student, byte_tokenizer(), None), teacher_of(student.plain())
    (full,) = answerer.generate(SAMPLES[1:2], GenerateOptions(max_new_tokens=12))
    stopping = GenerateOptions(max_new_tokens=12, stop=(full[2:4],))
    assert answerer.generate(SAMPLES[1:2], stopping) == [full[: full.index(full[2:4])]]
    sampling = GenerateOptions(max_new_tokens=8, temperature=1.5, seed=5)
    assert answerer.generate(SAMPLES, sampling) == teacher.generate(SAMPLES, sampling)


def test_an_isolated_adapter_needs_the_word(make):
    student = make(trained=True)
    with pytest.raises(UsageError, match="isolated"):
        StudentAnswerer(student, byte_tokenizer(), "secret").generate(SAMPLES, OPTIONS)
    assert (
        len(StudentAnswerer(student, byte_tokenizer(), "secret", allow_isolated=True).generate(SAMPLES, OPTIONS)) == 5
    )
    with pytest.raises(UsageError, match="no adapter"):
        StudentAnswerer(student, byte_tokenizer(), "tools").generate(SAMPLES, OPTIONS)
