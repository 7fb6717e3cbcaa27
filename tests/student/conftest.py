"""Tiny students: two blocks of 32 channels, four query heads on two key heads, two adapters, one isolated, one tower."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch, TowerArch
from nexus_core.student.model import NexusForCausalLM
from nexus_core.types import AdapterPlan

BACKBONE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,  # so that a random model's next tokens are far from each other
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ADAPTERS = (
    AdapterArch("reasoning", "text", "t1", (Site(0, 4, "a"), Site(1, 5, "b")), 3, ("q_proj", "mlp.down_proj")),
    AdapterArch("code", "text", "t2", (Site(1, 6, "c"),), 2, ("v_proj", "gate_proj", "o_proj")),
    AdapterArch("secret", "text", "t3", (Site(0, 4, "d"),), 2, ("up_proj",), isolated=True),
)
TOWERS = (
    TowerArch("text", 16),
    TowerArch("image", 16, thought_tokens=4, port_blocks=(0, 1), port_heads=2, port_head_dim=8, feature_size=12),
    TowerArch("voice", 8, thought_tokens=3, port_blocks=(1,), port_heads=1, port_head_dim=8, feature_size=6),
)


def bottleneck(plan: AdapterPlan) -> AnchoredBottleneck:
    """What the text tower's plugin builds."""
    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)


@pytest.fixture
def arch() -> Callable[..., StudentArch]:
    def make(**backbone: Any) -> StudentArch:
        return StudentArch(
            version=1,
            preset="tiny",
            seed=42,
            backbone={**BACKBONE, **backbone},
            backbone_source="random",
            adapters=ADAPTERS,
            towers=TOWERS,
            router=RouterArch(("reasoning", "code"), 64, 4, 1),
            decisions=(),
        )

    return make


@pytest.fixture
def make(arch) -> Callable[..., NexusForCausalLM]:
    """A student in eval mode; `trained`: its adapters and ports no longer start from nothing."""

    def student(
        trained: bool = False, dtype: torch.dtype = torch.float32, attention: str = "sdpa", **backbone: Any
    ) -> NexusForCausalLM:
        model = NexusForCausalLM.from_backbone(None, arch(**backbone), bottleneck).to(dtype)
        model.set_attn_implementation(attention)
        if trained:
            perturb(model)
        return model

    return student


@pytest.fixture
def build() -> Callable[[AdapterPlan], AnchoredBottleneck]:
    return bottleneck


@pytest.fixture
def perturbed() -> Callable[[torch.nn.Module], torch.nn.Module]:
    return perturb


def perturb(model: torch.nn.Module, size: float = 0.2) -> torch.nn.Module:
    """As after some training: everything that is not the backbone's has moved, gates included."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("adapters.", "towers.")) or ".ports." in name:
                parameter.add_((torch.randn(parameter.shape, generator=generator) * size).to(parameter.dtype))
    return model


@pytest.fixture
def plain_of() -> Callable[[NexusForCausalLM], LlamaForCausalLM]:
    """transformers' own model, made without the student's code, with the student's backbone weights."""

    def get(student: NexusForCausalLM) -> LlamaForCausalLM:
        from transformers import LlamaConfig

        given = {name: getattr(student.config, name) for name in BACKBONE}
        more = {name: getattr(student.config, name) for name in ("attention_bias", "mlp_bias", "tie_word_embeddings")}
        config = LlamaConfig(**given, **more, rope_parameters=student.config.rope_parameters)
        model = LlamaForCausalLM._from_config(config, attn_implementation=student.config._attn_implementation)
        own = {n: t for n, t in student.state_dict().items() if not n.startswith(("adapters.", "towers."))}
        model.load_state_dict({n: t for n, t in own.items() if ".ports." not in n})
        return model.to(student.dtype).eval()

    return get


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(3, 259, (3, 11), generator=torch.Generator().manual_seed(3))
