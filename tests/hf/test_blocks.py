"""Blocks are found in the module tree, whatever the family calls them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoModel, AutoModelForCausalLM

from nexus_core.hf.blocks import find_blocks
from nexus_core.testing import tiny

SMALL = {**tiny.SMALL, "vocab_size": 64, "pad_token_id": 0}
OTHER_NAMES = {  # families that call the sizes something else
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    "bloom": {"n_layer": 2, "n_head": 4},
    "opt": {"word_embed_proj_dim": 32, "ffn_dim": 64},
    "mamba": {"state_size": 4},
    "t5": {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 3, "num_heads": 4},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
    "gemma3_text": {"sliding_window": 16},
}
STACKS = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "gpt_neox": "gpt_neox.layers",
    "bloom": "transformer.h",
    "opt": "model.decoder.layers",
    "phi3": "model.layers",
    "mamba": "backbone.layers",
    "qwen3": "model.layers",
    "qwen3_moe": "model.layers",
    "gemma3_text": "model.layers",
}


def config(model_type: str):
    return CONFIG_MAPPING[model_type](**{**SMALL, **OTHER_NAMES.get(model_type, {})})


@pytest.mark.parametrize("model_type", STACKS)
def test_decoders(model_type):
    model = AutoModelForCausalLM.from_config(config(model_type)).eval()
    blocks = find_blocks(model)
    assert list(blocks) == [f"{STACKS[model_type]}.{i}" for i in range(2)]
    assert all(model.get_submodule(name) is block for name, block in blocks.items())
    assert_each_runs_once_in_order(model, blocks, {"input_ids": torch.tensor([[3, 4, 5]])})


def test_both_stacks_of_an_encoder_decoder():
    model = AutoModel.from_config(config("t5")).eval()
    blocks = find_blocks(model)
    assert list(blocks) == [f"encoder.block.{i}" for i in range(2)] + [f"decoder.block.{i}" for i in range(3)]
    ids = torch.tensor([[3, 4, 5]])
    assert_each_runs_once_in_order(model, blocks, {"input_ids": ids, "decoder_input_ids": ids})


def test_encoder():
    model = AutoModel.from_config(config("bert")).eval()
    blocks = find_blocks(model)
    assert list(blocks) == ["encoder.layer.0", "encoder.layer.1"]
    assert_each_runs_once_in_order(model, blocks, {"input_ids": torch.tensor([[3, 4, 5]])})


def assert_each_runs_once_in_order(model: nn.Module, blocks: dict[str, nn.Module], batch: dict) -> None:
    seen: list[str] = []
    for name, block in blocks.items():
        block.register_forward_hook(lambda *_, name=name: seen.append(name))
    with torch.inference_mode():
        model(**batch)
    assert seen == list(blocks)


def test_a_list_inside_a_block_is_no_stack():
    """Experts of a mixture as a ModuleList, the layout of older families."""
    block = nn.Module()
    block.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
    model = nn.Module()
    model.layers = nn.ModuleList([block, nn.Linear(8, 8)])
    assert list(find_blocks(model)) == ["layers.0", "layers.1"]


def test_a_small_list_is_a_detail():
    model = nn.Module()
    model.stem = nn.ModuleList([nn.Linear(2, 2)])
    model.layers = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
    assert list(find_blocks(model)) == ["layers.0", "layers.1", "layers.2"]


def test_a_model_without_lists_has_no_blocks():
    assert find_blocks(nn.Linear(4, 4)) == {}
    assert find_blocks(nn.Module()) == {}
    empty = nn.Module()
    empty.layers = nn.ModuleList()
    assert find_blocks(empty) == {}
