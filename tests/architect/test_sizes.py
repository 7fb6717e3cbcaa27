"""Parameters are counted without building anything, and the count is that of what is then built."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.architect.architect import Request
from nexus_core.architect.backbone import llama_config
from nexus_core.architect.sizes import RESAMPLER_DEPTH, backbone_size, router_size, sizes
from nexus_core.student import towers
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import RouterArch
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter

SHAPE = {
    "vocab_size": 50,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1},
        {"head_dim": 16, "num_key_value_heads": 2},
        {"tie_word_embeddings": True},
        {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 2},
    ],
)
def test_a_backbone_is_counted_as_it_is_built(changes):
    config = llama_config({**SHAPE, **changes}, "here")
    with torch.device("meta"):
        assert backbone_size(config) == count(LlamaForCausalLM(LlamaConfig(**config)))


def test_a_student_is_counted_part_by_part_as_it_is_built(bench, make_block):
    bench.profile("ada", "reasoning")
    bench.profile("eve", "voice", make_block(0, 5, 2), make_block(2, 9, 3), depth=3)
    arch = bench.architect.design(Request("small"))
    narrow = llama_config({**SHAPE, "num_hidden_layers": arch.backbone["num_hidden_layers"]}, "here")
    arch = replace(arch, backbone=narrow, adapters=tuple(replace(a, delta_rank=3) for a in arch.adapters))
    student = NexusForCausalLM.from_backbone(None, arch, lambda p: AnchoredBottleneck(p.hidden_size, p.rank, p.seed))
    found = sizes(arch)
    assert found.backbone == count(student.plain())
    assert found.adapters == {name: count(adapter) for name, adapter in student.adapters.items()}
    ports = sum(count(layer.ports) for layer in student.model.layers)
    assert ports > 0
    assert found.towers == {"text": 0, "voice": count(student.towers["voice"]) + ports}
    assert count(student) + found.router == found.total


@pytest.mark.parametrize("classes", [("a",), ("a", "b", "c")])
def test_a_router_is_counted_with_its_table(classes):
    arch = RouterArch(classes, 64, 8, 1)
    router = SparseIntentRouter(arch)
    assert router_size(arch) == count(router) + router.log_density.numel()


def test_the_resampler_is_as_deep_as_it_is_built():
    assert RESAMPLER_DEPTH == towers.DEPTH


def test_the_design_preset_has_the_sizes_of_the_specification(bench, make_block):
    for teacher, capability in (("ada", "reasoning"), ("ada", "code"), ("bob", "tools"), ("eve", "voice")):
        bench.profile(teacher, capability, *(make_block(i, 40, 20) for i in (5, 8, 11)), depth=12)
    arch = bench.architect.design(Request("design"))
    found = sizes(arch)
    assert 400e6 <= found.backbone <= 550e6
    assert 120e6 <= found.parts["adapters"] <= 200e6
    assert 20e6 <= found.router <= 40e6
    with torch.device("meta"):  # the count of the real thing, not its weights
        assert count(LlamaForCausalLM(LlamaConfig(**arch.backbone))) == found.backbone
    (voice,) = [tower for tower in arch.towers if tower.name == "voice"]
    assert voice.port_blocks == (3, 7, 11, 15, 19, 23)


def test_the_small_preset_is_about_60_million(bench):
    bench.profile("ada", "reasoning")
    bench.profile("bob", "code")
    assert 50e6 <= sizes(bench.architect.design(Request("small"))).total <= 64e6
