"""The attention of teaching: the output and weights of transformers, by either kernel, for rows padded on the right."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.distill import looks as module
from nexus_core.distill.looks import TAUGHT, Look, looking
from nexus_core.errors import UsageError
from nexus_core.hf.attention import attention_by
from nexus_core.testing.tiny import SMALL

LENGTHS = (24, 17, 9)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Two queries share a key: heads of the look are those of the queries."""
    torch.manual_seed(3)
    shape = {**SMALL, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=259, pad_token_id=0, eos_token_id=2, **shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return model


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 259, (len(LENGTHS), max(LENGTHS)))
    return ids, torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]


def asked() -> Look:
    return Look((3, 0), torch.tensor([0, 0, 2, 2, 2]), torch.tensor([5, 23, 0, 4, 8]))


def taught(model, ids, look):
    with attention_by(model, TAUGHT), looking(model, {1: look}):
        return model.model(input_ids=ids, use_cache=False).last_hidden_state


@pytest.mark.parametrize("short", [0, 256], ids=["fused", "steps"])
def test_outputs_and_looks_are_those_of_transformers(model, batch, short, monkeypatch):
    monkeypatch.setattr(module, "SHORT", short)
    ids, mask = batch
    with attention_by(model, "eager"):
        expected = model.model(input_ids=ids, attention_mask=mask.long(), use_cache=False, output_attentions=True)
    look = asked()
    hidden = taught(model, ids, look)
    torch.testing.assert_close(hidden[mask], expected.last_hidden_state[mask], atol=1e-5, rtol=1e-4)
    own = expected.attentions[1][look.rows, :, look.places][:, list(look.heads)]
    assert look.weights.shape == (5, 2, max(LENGTHS))
    torch.testing.assert_close(look.weights, own, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(look.weights.sum(-1), torch.ones(5, 2))
    with attention_by(model, "eager"):
        wanted = torch.autograd.grad(own.square().sum(), model.model.layers[0].mlp.up_proj.weight)[0]
    found = torch.autograd.grad(look.weights.square().sum(), model.model.layers[0].mlp.up_proj.weight)[0]
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-3)


def test_nothing_asked_is_nothing_answered(model, batch):
    look = Look((0,), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long))
    taught(model, batch[0], look)
    assert look.weights.shape == (0, 1, max(LENGTHS))
    with attention_by(model, TAUGHT), looking(model, {}):
        model.model(input_ids=batch[0], use_cache=False)


def test_what_was_asked_is_forgotten_after(model, batch):
    with pytest.raises(ZeroDivisionError), looking(model, {0: asked(), 1: asked()}):
        raise ZeroDivisionError
    assert not any(hasattr(layer.self_attn, "look") for layer in model.model.layers)


@pytest.mark.parametrize("wrong", ["padding on the left", "a cache"])
def test_it_is_for_teaching_only(model, batch, wrong):
    ids, mask = batch
    with attention_by(model, TAUGHT), pytest.raises(UsageError, match="attention for teaching"):
        if wrong == "a cache":
            past = model.model(input_ids=ids, use_cache=True).past_key_values
            model.model(input_ids=ids[:, :2], past_key_values=past)
        else:
            model.model(input_ids=ids, attention_mask=mask.flip(1).long(), use_cache=False)
