"""The short way of decoding writes the tokens of `generate`, whatever the batch, the adapter and the layout."""

from __future__ import annotations

import pytest
import torch

from nexus_core.student import decode
from nexus_core.student.decode import can_decode, greedy

ROOM = 24


def batch_of(rows: int, padded: bool) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, 259, (rows, 12), generator=torch.Generator().manual_seed(rows))
    mask = torch.ones_like(ids)
    if padded:
        for row in range(rows):
            mask[row, : row % 11] = 0
            ids[row, : row % 11] = 0
    return {"input_ids": ids, "attention_mask": mask}


def reference(student, batch, ends, room=ROOM):
    """What `generate` wrote, each row cut after its own end."""
    eos = sorted(ends) or None
    student.generation_config.eos_token_id = eos
    out = student.generate(**batch, max_new_tokens=room, do_sample=False, pad_token_id=0, eos_token_id=eos)
    rows = out[:, batch["input_ids"].shape[1] :].tolist()
    return [row[: 1 + next((i for i, token in enumerate(row) if token in ends), len(row))] for row in rows]


@pytest.mark.parametrize("rows", [1, 9])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("capability", [None, "reasoning"])
def test_the_tokens_are_those_of_generate(make, rows, padded, capability):
    student = make(trained=True)
    batch = batch_of(rows, padded)
    with student.using(capability):
        expected = reference(student, batch, set())
        assert greedy(student, batch, ROOM, set()) == expected
        ends = {row[3] for row in expected[: rows // 2 + 1]} | {
            expected[-1][9]
        }  # some end early, some late, some never
        ended = reference(student, batch, ends)
        assert greedy(student, batch, ROOM, ends) == ended
    assert len({len(row) for row in ended}) > 1 or rows == 1


LAYOUTS = {
    "every head its own": {"num_key_value_heads": 4},
    "one for all": {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "tied, wide heads": {"tie_word_embeddings": True, "head_dim": 16},
    "gelu": {"hidden_act": "gelu"},
    "llama3 positions": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 10000.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 32,
        }
    },
    "yarn positions": {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0}},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_in_every_layout(make, layout, attention):
    student = make(trained=True, attention=attention, **LAYOUTS[layout])
    for name, parameter in student.named_parameters():
        if name.endswith("_proj.bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    assert can_decode(student)
    student.choose("reasoning")
    batch = batch_of(4, padded=True)
    assert greedy(student, batch, ROOM, set()) == reference(student, batch, set())


def test_with_large_students_weights_are_not_copied(make, monkeypatch):
    student = make(trained=True, attention_bias=True)
    student.choose("code")
    batch = batch_of(4, padded=True)
    expected = greedy(student, batch, ROOM, set())
    monkeypatch.setattr(decode, "SMALL", 0)
    joined = []
    monkeypatch.setattr(
        torch, "cat", lambda parts, *a, _cat=torch.cat, **k: joined.append(parts) or _cat(parts, *a, **k)
    )
    assert greedy(student, batch, ROOM, set()) == expected
    assert not any(part is student.blocks[0].mlp.gate_proj.effective_weight() for parts in joined for part in parts)


def test_with_thoughts(make):
    student = make(trained=True)
    batch = batch_of(4, padded=True)
    said = {
        "thoughts": {"image": torch.randn(4, 4, 16), "voice": torch.randn(4, 3, 8)},
        "thoughts_mask": {"image": torch.tensor([[1, 1, 0, 1]] * 4)},
    }
    expected = reference(student, batch | said, set())
    assert greedy(student, batch | said, ROOM, set()) == expected
    assert expected != greedy(student, batch, ROOM, set())
    ends = {expected[0][2], expected[2][2], expected[3][2]}
    assert greedy(student, batch | said, ROOM, ends) == reference(student, batch | said, ends)


def test_in_half_precision_each_token_is_the_students_own_choice(make):
    """bf16 rounds so coarsely that near ties may fall either way: each token must be a best one, within rounding."""
    student = make(trained=True, dtype=torch.bfloat16)
    student.choose("reasoning")
    batch = batch_of(3, padded=False)
    written = torch.tensor(greedy(student, batch, ROOM, set()))
    with torch.no_grad():
        logits = student(torch.cat([batch["input_ids"], written], 1)).logits[:, 11:-1].float()
    lead = logits.max(-1).values - logits.gather(-1, written[..., None])[..., 0]
    assert lead.max() <= 0.05 * logits.std()
    assert (lead == 0).float().mean() > 0.9


def test_rows_that_have_ended_are_no_longer_computed(make, monkeypatch):
    student = make(trained=True)
    batch = batch_of(8, padded=True)
    expected = reference(student, batch, set())
    ends = {row[1] for row in expected[:6]}
    sizes = []
    monkeypatch.setattr(
        decode._Decoder,
        "step",
        lambda self, tokens, _step=decode._Decoder.step: sizes.append(len(tokens)) or _step(self, tokens),
    )
    assert greedy(student, batch, ROOM, ends) == reference(student, batch, ends)
    assert sizes[0] == 8
    assert sizes[-1] <= 4


def test_one_token_of_room_is_one_token(make):
    student = make(trained=True)
    batch = batch_of(2, padded=True)
    assert greedy(student, batch, 1, set()) == [row[:1] for row in reference(student, batch, set())]


def test_positions_that_stretch_with_the_text_go_the_long_way(make):
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    assert not can_decode(make(rope_parameters=dynamic))
    student = make()
    assert can_decode(student)
    student.model.layers[0].mlp.up_proj = torch.nn.Linear(32, 64, bias=False)  # as a quantiser would replace it
    assert not can_decode(student)
