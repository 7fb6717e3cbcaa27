"""Which characters of the prompt a token is, whatever a template writes around it; and attention weights on demand."""

from __future__ import annotations

import pytest
import torch

from nexus_core.hf import load_hf_teacher
from nexus_core.hf.attention import eager_attention
from nexus_core.types import Category, Detection, GenerateOptions, LoadOptions, ModelSource, Sample

CHAT = (
    "{% for m in messages %}<s>user: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}user>{% endif %}"
)
STRIPPING = CHAT.replace("{{ m['content'] }}", "{{ m['content']|trim }}")
OPTIONS = GenerateOptions(max_new_tokens=4)


@pytest.fixture
def teacher(checkpoint):
    detection = Detection(Category.TRANSFORMERS, "llama", 0.5, "a test")
    return load_hf_teacher(ModelSource(checkpoint("llama")), LoadOptions(), detection)


def pieces(teacher, prompt: str) -> list[str]:
    sample = Sample("0", prompt, "")
    (spans,) = teacher.prompt_spans([sample], OPTIONS)
    batch, mask = teacher.encode_answers([sample], [[5]], OPTIONS)
    assert len(spans) == batch["input_ids"].shape[1] - 1, "one span for each prompt token of encode_answers"
    assert int(mask.int().argmax()) == len(spans) - 1
    return [prompt[start:end] for start, end in spans]


@pytest.mark.parametrize("prompt", ["user", "2 + 2?", " led by a blank", "naïve €5 😀", "two\nlines\n"])
@pytest.mark.parametrize("template", [None, CHAT, STRIPPING])
def test_every_byte_of_the_prompt_has_its_token_and_the_template_has_none(teacher, template, prompt):
    teacher.processor.chat_template = template
    found = pieces(teacher, prompt)
    kept = prompt.strip() if template is STRIPPING else prompt
    assert [piece for piece in found if piece] == [c for c in kept for _ in c.encode()]  # one token per byte
    assert found.count("") == (0 if template is None else len("<s>user: </s>user>") - len("<s></s>") + 2)


def test_a_prompt_that_lost_its_beginning_keeps_the_places_of_the_rest(teacher):
    teacher.processor.chat_template = None
    prompt = "".join(chr(97 + i % 26) for i in range(300))
    found = pieces(teacher, prompt)
    assert "".join(found) == prompt[-len(found) :] and len(found) < 128


def test_a_template_that_rewrites_the_prompt_leaves_no_places(teacher):
    teacher.processor.chat_template = CHAT.replace("m['content']", "m['content']|upper")
    assert set(pieces(teacher, "abc")) == {""}


def test_weights_come_inside_and_the_models_own_attention_after(teacher):
    model, batch = teacher.model, teacher.encode([Sample("0", "abcdef", "")])
    own, plain = model.config._attn_implementation, teacher.forward(batch).logits
    assert own != "eager"
    with pytest.raises(ZeroDivisionError), eager_attention(model):
        weights = teacher.forward({**batch, "output_attentions": True}).attentions
        assert weights[0].shape == (1, 4, 6, 6)
        torch.testing.assert_close(weights[0].sum(-1), torch.ones(1, 4, 6))
        raise ZeroDivisionError
    assert model.config._attn_implementation == own and torch.equal(teacher.forward(batch).logits, plain)


def test_what_cannot_be_switched_is_left_alone():
    module = torch.nn.Linear(2, 2)
    with eager_attention(module):
        assert module.weight.shape == (2, 2)
