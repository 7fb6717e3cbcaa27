"""A student with one capability as an ordinary Llama."""

from __future__ import annotations

import pytest
import torch

from nexus_core.bundle.export.plain import as_plain, placed, with_places
from nexus_core.errors import UsageError
from nexus_core.student.adapter import AnchoredBottleneck


def answers(student, capability, ids):
    with torch.no_grad(), student.model.using(capability, allow_isolated=True):
        return student.model(ids).logits


def close(student, capability, blocks=None):
    for block, site in student.model.adapters[capability].sites.items():
        if blocks is None or block in blocks:
            torch.nn.init.zeros_(site.gate)


@torch.no_grad()
def test_without_a_capability_it_is_the_backbone_bit_for_bit(student, ids):
    assert torch.equal(as_plain(student.model, None)(ids).logits, answers(student, None, ids))


@torch.no_grad()
def test_deltas_alone_are_merged_exactly_and_no_block_is_added(student, ids):
    close(student, "reasoning")
    plain = as_plain(student.model, "reasoning")
    assert plain.config.num_hidden_layers == 2 and not plain.config.mlp_bias
    torch.testing.assert_close(plain(ids).logits, answers(student, "reasoning", ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("capability", ["reasoning", "tools"])
@pytest.mark.parametrize("tied", [True, False])
def test_a_bottleneck_is_a_block_that_does_what_it_did(make, ids, capability, tied):
    student = make(tie_word_embeddings=tied)
    wanted = answers(student, capability, ids)
    plain = as_plain(student.model, capability)
    assert plain.config.num_hidden_layers == 2 + len(student.model.adapters[capability].sites)
    off = (plain(ids).logits - wanted).norm()
    close(student, capability)
    silent = (answers(student, capability, ids) - wanted).norm()
    assert off < 0.1 * silent, "the offset of the residual stream is all that may be felt"


@torch.no_grad()
def test_where_the_stream_has_no_offset_it_is_the_bottleneck_itself(student):
    site = student.model.adapters["reasoning"].sites["0"]
    assert isinstance(site, AnchoredBottleneck)
    hidden = torch.randn(5, 7, 64, generator=torch.Generator().manual_seed(1)) * 3
    hidden -= hidden.mean(-1, keepdim=True)
    block = as_plain(student.model, "reasoning").model.layers[1]
    out = hidden + block.mlp(block.post_attention_layernorm(hidden))
    torch.testing.assert_close(out, site(hidden), atol=1e-4, rtol=1e-4)
    assert (out - hidden).abs().max() > 0.1
    attention = block.self_attn
    assert not any(p.any() for p in attention.parameters())


@torch.no_grad()
def test_places_change_nothing_until_they_are_filled(student, ids):
    plain = with_places(student.model, [0, 1], 5)
    assert plain.config.num_hidden_layers == 4 and placed(2, [0, 1]) == [0, 2] and placed(3, [1]) == [0, 1, 3]
    torch.testing.assert_close(plain(ids).logits, answers(student, None, ids), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_bottleneck_wider_than_the_mlp_widens_it(make, ids):
    student = make(intermediate_size=4)
    plain = as_plain(student.model, "reasoning")
    assert plain.config.intermediate_size == 5
    wanted = answers(student, "reasoning", ids)
    assert (plain(ids).logits - wanted).norm() < 0.1 * (answers(student, None, ids) - wanted).norm()


def test_the_student_is_as_it_was(student, ids):
    before = answers(student, None, ids)
    as_plain(student.model, "reasoning")
    assert student.model.chosen is None and torch.equal(answers(student, None, ids), before)


def test_an_isolated_adapter_is_refused_unless_it_is_allowed(student, ids):
    with pytest.raises(UsageError, match='"secret" is isolated'):
        as_plain(student.model, "secret")
    assert as_plain(student.model, "secret", allow_isolated=True).config.num_hidden_layers == 3


def test_what_is_no_bottleneck_has_no_form(student):
    student.model.adapters["tools"].sites["1"] = torch.nn.Linear(64, 64)
    with pytest.raises(UsageError, match='"tools" has a Linear after block 1'):
        as_plain(student.model, "tools")
