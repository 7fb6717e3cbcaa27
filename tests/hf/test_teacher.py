"""A resident teacher: what it encodes, how it answers, and that batching changes no answer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from nexus_core.errors import ModelError
from nexus_core.hf import HFTeacher, load_hf_teacher
from nexus_core.testing import tiny
from nexus_core.types import Category, Detection, GenerateOptions, LoadOptions, ModelSource, Sample, Teacher

PROMPTS = ["a", "one two three", "The quick brown fox jumps over the lazy dog.", "xyz"]
SAMPLES = [Sample(str(i), prompt, "") for i, prompt in enumerate(PROMPTS)]
CHAT = "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}{% endfor %}{% if add_generation_prompt %}>{% endif %}"


@pytest.fixture
def load(checkpoint):
    def get(model_type: str = "llama", **options: object) -> HFTeacher:
        detection = Detection(Category.TRANSFORMERS, model_type, 0.5, "a test")
        return load_hf_teacher(ModelSource(checkpoint(model_type)), LoadOptions(**options), detection)

    return get


def test_it_is_a_frozen_teacher(load):
    teacher = load()
    assert isinstance(teacher, Teacher)
    assert not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.unused == ()
    assert not teacher.forward(teacher.encode(SAMPLES)).logits.requires_grad


@pytest.mark.parametrize("model_type", ["llama", "gpt_neox", "qwen3"])
def test_left_padding_changes_no_logit_beyond_rounding(load, model_type):
    teacher = load(model_type)
    batch = teacher.encode(SAMPLES)
    assert batch["attention_mask"][0, 0] == 0, "the short prompt is padded on the left"
    together = teacher.forward(batch).logits[:, -1]
    for i, sample in enumerate(SAMPLES):
        alone = teacher.forward(teacher.encode([sample])).logits[0, -1]
        torch.testing.assert_close(together[i], alone, atol=1e-5, rtol=1e-5)


def test_answers_come_in_the_order_of_the_samples(load):
    teacher = load()
    samples = [Sample(str(i), "abcdefghij"[: 1 + (7 * i) % 10] * 2, "") for i in range(10)]
    alone = [teacher.generate([sample], GenerateOptions(max_new_tokens=4))[0] for sample in samples]
    assert len(set(alone)) > 3, "the samples can be told apart by their answers"
    for batch_size in (1, 3, 4, 32):
        assert teacher.generate(samples, GenerateOptions(max_new_tokens=4, batch_size=batch_size)) == alone


def test_no_samples_no_answers(load):
    assert load().generate([], GenerateOptions()) == []


def test_greedy_ignores_the_seed_and_sampling_obeys_it(load):
    teacher = load()

    def answer(**options: object) -> list[str]:
        return teacher.generate(SAMPLES, GenerateOptions(max_new_tokens=8, **options))

    assert answer(seed=1) == answer(seed=2)
    assert answer(seed=1, temperature=1.0) == answer(seed=1, temperature=1.0)
    assert answer(seed=1, temperature=1.0) != answer(seed=2, temperature=1.0)


def test_generation_leaves_the_callers_random_state_alone(load):
    teacher = load()
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    teacher.generate(SAMPLES, GenerateOptions(max_new_tokens=2, temperature=1.0))
    assert torch.equal(torch.rand(3), expected)


def test_greedy_means_greedy_whatever_the_checkpoint_prefers(own):
    """Chat models ship a generation_config.json that samples."""
    path = own()
    (path / "generation_config.json").write_text('{"do_sample": true, "temperature": 5.0, "top_k": 3, "top_p": 0.5}')
    teacher = load_hf_teacher(ModelSource(path), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 0.5, "x"))
    batch = teacher.encode(SAMPLES[:1])
    ids = batch["input_ids"]
    for _ in range(4):
        ids = torch.cat([ids, teacher.model(ids).logits[:, -1:].argmax(-1)], dim=1)
    expected = teacher.processor.decode(ids[0, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    assert teacher.generate(SAMPLES[:1], GenerateOptions(max_new_tokens=4)) == [expected]


def test_sampling_is_over_the_whole_vocabulary_unless_asked_otherwise(own):
    """`top_p=1` means all of it: a top_k from generation_config.json must not cut it."""
    path = own()
    (path / "generation_config.json").write_text('{"do_sample": true, "top_k": 1}')
    teacher = load_hf_teacher(ModelSource(path), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 0.5, "x"))
    sampled = [GenerateOptions(max_new_tokens=8, temperature=1.0, seed=seed) for seed in (1, 2)]
    assert len({teacher.generate(SAMPLES[:1], options)[0] for options in sampled}) == 2


def test_a_stop_string_ends_the_answer_before_it(load):
    teacher = load()
    (full,) = teacher.generate(SAMPLES[1:2], GenerateOptions(max_new_tokens=16))
    assert len(full) > 6
    stop = full[4:6]
    (cut,) = teacher.generate(SAMPLES[1:2], GenerateOptions(max_new_tokens=16, stop=("never here", stop)))
    assert cut == full[: full.index(stop)]


def test_each_row_of_a_batch_is_cut_at_its_own_stop(load):
    teacher = load()
    full = teacher.generate(SAMPLES, GenerateOptions(max_new_tokens=12))
    stop = full[0][2]
    cut = teacher.generate(SAMPLES, GenerateOptions(max_new_tokens=12, stop=(stop,)))
    assert cut == [text.split(stop)[0] for text in full]


def test_without_a_chat_template_the_prompt_is_raw(load):
    teacher = load()
    assert teacher.prompt_text(SAMPLES[1]) == "one two three"


def test_with_a_chat_template_the_prompt_goes_through_it(load):
    teacher = load()
    raw = teacher.encode(SAMPLES[1:2])["input_ids"].shape[1]
    teacher.processor.chat_template = CHAT
    assert teacher.prompt_text(SAMPLES[1]) == "<s>user: one two three>"
    ids = teacher.encode(SAMPLES[1:2])["input_ids"][0].tolist()
    assert ids.count(teacher.processor.bos_token_id) == 1, "the template writes the first token; it is not doubled"
    assert teacher.processor.decode(ids) == "<s>user: one two three>"
    assert len(ids) > raw


def test_a_template_in_a_file_beside_the_tokenizer_is_used(own):
    path = own()
    (path / "chat_template.jinja").write_text(CHAT)
    teacher = load_hf_teacher(ModelSource(path), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 0.5, "x"))
    assert teacher.prompt_text(SAMPLES[0]) == "<s>user: a>"


def test_logits_are_those_of_transformers_itself(load, checkpoint):
    teacher = load()
    reference = AutoModelForCausalLM.from_pretrained(checkpoint("llama"), dtype=torch.float32).eval()
    batch = teacher.encode(SAMPLES)
    with torch.inference_mode():
        # Not bit for bit: where the allocator puts the weights decides which kernel adds them up.
        torch.testing.assert_close(teacher.forward(batch).logits, reference(**batch).logits, atol=1e-6, rtol=1e-6)


def test_a_prompt_longer_than_the_model_loses_its_beginning(load):
    """The question stands at the end; the byte tokenizer and the model of these tests hold 128 tokens."""
    teacher = load()
    ids = teacher.encode([Sample("0", "x" * 300 + "end", "")])["input_ids"][0]
    assert len(ids) == 128
    assert teacher.processor.decode(ids[-3:]) == "end"
    assert len(teacher.generate([Sample("0", "x" * 300, "")], GenerateOptions(max_new_tokens=8))) == 1


def test_an_answer_that_a_stop_string_ended_has_no_padding_in_it(tmp_path):
    """The rows of a batch end at different places; what fills them up is no answer token."""
    path = tiny.save_causal_lm(tmp_path, "llama")
    teacher = load_hf_teacher(ModelSource(path), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 1.0, "test"))
    samples = [Sample(str(i), text, "") for i, text in enumerate(["a", "bc", "def", "ghij", "klmno"])]
    free = teacher.generate_tokens(samples, GenerateOptions(max_new_tokens=12))
    common = max(set("".join(teacher.decode_tokens(free, GenerateOptions()))), key="".join(map(str, free)).count)
    stopped = teacher.generate_tokens(samples, GenerateOptions(max_new_tokens=12, stop=(common,)))
    assert len({len(row) for row in stopped}) > 1, "no row ended early: the test would prove nothing"
    assert all(teacher.processor.pad_token_id not in row for row in stopped)


def test_nan_weights_are_refused_by_name(tmp_path):
    from safetensors.torch import load_file, save_file

    path = tiny.save_causal_lm(tmp_path, "llama")
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.up_proj\.weight holds NaN"):
        load_hf_teacher(ModelSource(path), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 1.0, "test"))
