"""With nothing chosen the student is transformers' Llama, bit for bit, however it is run."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForCausalLM

SHAPES = {"grouped": {}, "every head its own": {"num_key_value_heads": 4}, "one for all": {"num_key_value_heads": 1}}
KINDS = [(dtype, attention) for dtype in (torch.float32, torch.bfloat16) for attention in ("eager", "sdpa")]


def masks(rows: int, length: int) -> dict[str, torch.Tensor]:
    full = torch.ones(rows, length, dtype=torch.long)
    left, right = full.clone(), full.clone()
    for row in range(rows):
        left[row, : 2 * row] = 0
        right[row, length - 2 * row :] = 0
    return {"none": full, "left": left, "right": right}


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0]}-{kind[1]}".removeprefix("torch."))
def pair(request, make, plain_of):
    student = make(trained=True, dtype=request.param[0], attention=request.param[1])
    return student, plain_of(student)


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_logits_are_bit_equal(pair, ids, padding):
    student, plain = pair
    mask = masks(*ids.shape)[padding]
    with torch.no_grad():
        ours, theirs = student(ids, attention_mask=mask), plain(ids, attention_mask=mask)
    assert torch.equal(ours.logits, theirs.logits)
    assert ours.logits.dtype == student.dtype
    assert theirs.logits.float().std() > 0.1, "the model says something"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", [{"attention_bias": True, "mlp_bias": True}, {"tie_word_embeddings": True}])
def test_whatever_its_heads_biases_and_ties(make, plain_of, ids, shape, options):
    student = make(trained=True, **SHAPES[shape], **options)
    plain = plain_of(student)
    with torch.no_grad():
        assert torch.equal(student(ids).logits, plain(ids).logits)


@pytest.mark.parametrize("padding", ["none", "left"])
def test_token_by_token_with_a_cache_too(pair, ids, padding):
    student, plain = pair
    mask = masks(*ids.shape)[padding]
    memory = [None, None]
    with torch.no_grad():
        for start, stop in [(0, 6), (6, 7), (7, 8), (8, 11)]:
            said = []
            for i, model in enumerate((student, plain)):
                positions = (mask[:, :stop].cumsum(-1) - 1).clamp(min=0)[:, start:]
                out = model(
                    ids[:, start:stop],
                    attention_mask=mask[:, :stop],
                    position_ids=positions,
                    past_key_values=memory[i],
                    use_cache=True,
                )
                memory[i] = out.past_key_values
                said.append(out.logits)
            assert torch.equal(*said)


@pytest.mark.parametrize("padding", ["none", "left"])
@pytest.mark.parametrize("search", [{}, {"num_beams": 3}])
def test_generate_writes_the_same_tokens(pair, ids, padding, search):
    written = []
    for model in pair:
        torch.manual_seed(5)
        mask = masks(*ids.shape)[padding]
        settings = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False, **search}
        written.append(model.generate(ids, attention_mask=mask, **settings))
    assert torch.equal(*written)
    assert written[0].shape[1] > ids.shape[1]


def test_hidden_states_and_attentions_are_recorded_as_transformers_does(make, plain_of, ids):
    student = make(trained=True, attention="eager")
    plain = plain_of(student)
    with torch.no_grad():
        ours, theirs = (m(ids, output_hidden_states=True, output_attentions=True) for m in (student, plain))
    assert len(theirs.hidden_states) == 3
    assert len(theirs.attentions) == 2
    for name in ("hidden_states", "attentions"):
        assert all(torch.equal(a, b) for a, b in zip(getattr(ours, name), getattr(theirs, name), strict=True))


def test_gradients_and_loss_are_equal(make, plain_of, ids):
    student = make(trained=True)
    plain = plain_of(student)
    losses = [model.train()(ids, labels=ids).loss for model in (student, plain)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    theirs = dict(plain.named_parameters())
    assert all(torch.equal(p.grad, dict(student.named_parameters())[name].grad) for name, p in theirs.items())
    assert all(p.grad is None for p in student.adapters.parameters()), "what is not chosen learns nothing"


def test_the_backbones_names_are_those_of_a_plain_llama(make, plain_of):
    student = make()
    assert list(student.backbone_state()) == list(plain_of(student).state_dict())


def test_plain_gives_an_ordinary_model_of_its_own_weights(make, ids):
    student = make(trained=True, tie_word_embeddings=True)
    plain = student.plain()
    assert type(plain) is LlamaForCausalLM
    assert type(plain.config).model_type == "llama"
    assert not {"adapters", "towers"} & set(plain.config.to_dict())
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, student(ids).logits)
        before = student(ids).logits
        for parameter in plain.parameters():
            parameter.zero_()
        assert torch.equal(student(ids).logits, before), "they share no memory"


def test_building_leaves_the_callers_random_state_alone(make):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    make().plain()
    assert torch.equal(torch.rand(3), expected)
