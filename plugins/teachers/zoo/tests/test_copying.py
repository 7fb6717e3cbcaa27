"""A backbone that starts able to copy: measured on sequences that it has never seen, before any training."""

from __future__ import annotations

import pytest
import torch
from nexus_teacher_zoo.recipes.copying import start_copying
from transformers import LlamaConfig, LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=True,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
)


def fresh(start: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM._from_config(CONFIG, attn_implementation="eager").eval()
    if start:
        start_copying(model, seed=1)
    return model


def copied(model: LlamaForCausalLM, length: int) -> float:
    """How often what followed the first time is the likeliest token when distinct tokens are said again."""
    generator = torch.Generator().manual_seed(2)
    first = torch.stack([torch.randperm(512, generator=generator)[:length] for _ in range(16)])
    second = first.roll(length // 3, dims=1)  # from another place on, so that no fixed distance will do
    with torch.inference_mode():
        said = model(input_ids=torch.cat([first, second], 1)).logits[:, length:-1].argmax(-1)
    return float((said == second[:, 1:]).float().mean())


def test_it_copies_before_its_first_step() -> None:
    assert copied(fresh(start=True), 24) > 0.2
    assert copied(fresh(start=False), 24) < 0.05


@pytest.fixture
def looks() -> torch.Tensor:
    """(B, heads, T, T) of the first block, before any training."""
    ids = torch.randint(0, 512, (4, 200), generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        attention: torch.Tensor = fresh(start=True)(input_ids=ids, output_attentions=True).attentions[0]
    return attention


@pytest.mark.parametrize("head", range(3))
def test_heads_of_the_first_block_look_one_to_three_tokens_back(looks: torch.Tensor, head: int) -> None:
    places = torch.arange(8, 200)
    assert float(looks[:, head, places, places - 1 - head].min()) > 0.9


def test_the_last_head_looks_around_six_tokens_back_and_nowhere_else(looks: torch.Tensor) -> None:
    places = torch.arange(20, 200)
    by_distance = [float(looks[:, 3, places, places - back].mean()) for back in range(13)]
    assert by_distance.index(max(by_distance)) == 6
    assert min(by_distance[2:11]) > 0.03
    assert sum(by_distance) > 0.95


def test_it_depends_on_the_seed_alone() -> None:
    one, two = fresh(start=True).state_dict(), fresh(start=True).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in one.values())
