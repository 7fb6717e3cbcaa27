"""Blocks, heads and channels are found on every layout without family code; hooks and bypasses leave no trace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nexus_core.hf.blocks import find_blocks
from nexus_core.profiling.interventions import Bypass, Positions, Silence, applied
from nexus_core.profiling.sites import find_sites
from nexus_core.types import Category, Detection, ModelSource, Teacher

DECODER = {
    "vocab_size": 99,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 16,
    "patch_size": 8,
    "num_channels": 3,
}
IDS = torch.arange(3, 15).reshape(2, 6)
TEXT = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)}
IMAGE = torch.linspace(-1, 1, 2 * 3 * 16 * 16).reshape(2, 3, 16, 16)

# model type -> (how it is built, its config, its inputs, blocks, (heads per block, of what it has), channels found)
CASES: dict[str, tuple[Any, dict[str, Any], dict[str, Any], int, int]] = {
    "llama": (AutoModelForCausalLM, DECODER, TEXT, 3, 4),
    "qwen3": (AutoModelForCausalLM, DECODER, TEXT, 3, 4),
    "gemma3_text": (AutoModelForCausalLM, {**DECODER, "sliding_window": 4}, TEXT, 3, 4),
    "gpt2": (AutoModelForCausalLM, {**DECODER, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}, TEXT, 3, 4),
    "gpt_neox": (AutoModelForCausalLM, DECODER, TEXT, 3, 4),
    "bloom": (AutoModelForCausalLM, {**DECODER, "n_layer": 3, "n_head": 4}, TEXT, 3, 4),
    "opt": (AutoModelForCausalLM, {**DECODER, "ffn_dim": 48, "word_embed_proj_dim": 32}, TEXT, 3, 4),
    "phi3": (AutoModelForCausalLM, DECODER, TEXT, 3, 4),
    "mamba": (AutoModelForCausalLM, {**DECODER, "state_size": 4}, TEXT, 3, 0),
    "qwen3_moe": (
        AutoModelForCausalLM,
        {**DECODER, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "decoder_sparse_step": 1},
        TEXT,
        3,
        4,
    ),
    "t5": (
        AutoModel,
        {"vocab_size": 99, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4},
        {**TEXT, "decoder_input_ids": IDS},
        4,
        4,
    ),
    "bert": (AutoModel, DECODER, TEXT, 3, 4),
    "whisper": (
        AutoModel,
        {
            "vocab_size": 99,
            "num_mel_bins": 8,
            "d_model": 32,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "decoder_ffn_dim": 48,
            "max_source_positions": 10,
            "max_target_positions": 20,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
        },
        {"input_features": torch.linspace(-1, 1, 2 * 8 * 20).reshape(2, 8, 20), "decoder_input_ids": IDS},
        4,
        4,
    ),
    "siglip_vision_model": (AutoModel, VISION, {"pixel_values": IMAGE}, 3, 4),
    "videomae": (
        AutoModel,
        {**VISION, "num_frames": 2, "tubelet_size": 2},
        {"pixel_values": torch.stack([IMAGE, IMAGE], dim=1)},
        3,
        4,
    ),
}


class Raw(Teacher):
    """Any model with fixed inputs: what the profiler needs of a teacher to look at its blocks."""

    def __init__(self, model: Any, batch: dict[str, Any], model_type: str) -> None:
        self.source = ModelSource(Path(model_type))
        self.detection = Detection(Category.TRANSFORMERS, model_type, 1.0, "test")
        self._model, self._batch = model, batch
        self._blocks = find_blocks(model)

    @property
    def model(self):
        return self._model

    @property
    def processor(self):
        return None

    @property
    def blocks(self):
        return self._blocks

    def encode(self, samples):
        return self._batch

    @torch.inference_mode()
    def forward(self, batch):
        return self._model(**batch)

    def generate(self, samples, options):
        raise AssertionError("not needed here")


@pytest.fixture(params=sorted(CASES))
def teacher(request) -> Raw:
    build, settings, batch, _, _ = CASES[request.param]
    torch.manual_seed(42)
    model = build.from_config(CONFIG_MAPPING[request.param](**settings)).eval()
    with torch.no_grad():  # some families start with zeros where a bypass or a silenced head must show
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    return Raw(model, batch, request.param)


def main_output(teacher: Raw) -> torch.Tensor:
    output = teacher.forward(teacher.encode([]))
    return output.logits if hasattr(output, "logits") else output.last_hidden_state


def test_blocks_sites_and_ablations(teacher):
    *_, blocks, heads = CASES[teacher.detection.model_type]
    assert len(teacher.blocks) == blocks
    plain = main_output(teacher)
    sites = find_sites(teacher, teacher.encode([]))
    assert [site.name for site in sites] == list(teacher.blocks)
    assert (main_output(teacher) == plain).all()
    rows = slice(0, 2)
    for site in sites:
        assert [projection.groups for projection in site.heads] == [heads] * len(site.heads)
        assert bool(site.heads) == (heads > 0)
        assert site.heads or "no attention head" in " ".join(site.notes)
        assert site.channels is not None or "no MLP channel" in " ".join(site.notes)
        cases = [Bypass(site), *(Silence(site, p, 0, 1) for p in site.heads)]
        cases += [Silence(site, site.channels, 0, site.channels.groups)] if site.channels else []
        for case in cases:
            with applied([(rows, case)], Positions()):
                assert not torch.equal(main_output(teacher), plain), f"{case} changes nothing"
            with applied([(slice(0, 1), case), (slice(1, 2), None)], Positions()):  # the other row keeps its bits
                half = main_output(teacher)
            assert not torch.equal(half[0], plain[0])
            if teacher.detection.model_type == "qwen3_moe":  # rows share an expert's kernel call
                assert torch.allclose(half[1], plain[1], atol=1e-6)
            else:
                assert torch.equal(half[1], plain[1])
    assert torch.equal(main_output(teacher), plain)
