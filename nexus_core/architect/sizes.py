"""How many parameters a student has, part by part, from its architecture alone: nothing is built, torch is not needed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nexus_core.student.arch import AdapterArch, RouterArch, StudentArch, TowerArch
from nexus_core.student.router_features import SHALLOW

RESAMPLER_DEPTH = 2  # nexus_core.student.towers.DEPTH, which costs torch to read; a test compares


@dataclass(frozen=True, slots=True)
class Sizes:
    """Parameters of each part; adapters by capability, towers (ports, resampler) by name."""

    backbone: int
    adapters: Mapping[str, int]
    towers: Mapping[str, int]
    router: int

    @property
    def parts(self) -> dict[str, int]:
        """The parts that a budget may limit."""
        return {
            "backbone": self.backbone,
            "adapters": sum(self.adapters.values()),
            "towers": sum(self.towers.values()),
            "router": self.router,
        }

    @property
    def total(self) -> int:
        return sum(self.parts.values())


def sizes(arch: StudentArch) -> Sizes:
    """The parameters of every part."""
    return Sizes(
        backbone=backbone_size(arch.backbone),
        adapters={adapter.capability: adapter_size(arch.backbone, adapter) for adapter in arch.adapters},
        towers={tower.name: tower_size(arch.backbone, tower) for tower in arch.towers},
        router=router_size(arch.router),
    )


def projections(backbone: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """(inputs, outputs) of the linear maps of one block, by name."""
    hidden, wide, head = backbone["hidden_size"], backbone["intermediate_size"], backbone["head_dim"]
    queries, keys = backbone["num_attention_heads"] * head, backbone["num_key_value_heads"] * head
    return {
        "self_attn.q_proj": (hidden, queries),
        "self_attn.k_proj": (hidden, keys),
        "self_attn.v_proj": (hidden, keys),
        "self_attn.o_proj": (queries, hidden),
        "mlp.gate_proj": (hidden, wide),
        "mlp.up_proj": (hidden, wide),
        "mlp.down_proj": (wide, hidden),
    }


def backbone_size(backbone: Mapping[str, Any]) -> int:
    """Of transformers' LlamaForCausalLM: an embedding and its head, blocks with two norms each, a last norm."""
    hidden, embedding = backbone["hidden_size"], backbone["vocab_size"] * backbone["hidden_size"]
    bias = {"self_attn": backbone["attention_bias"], "mlp": backbone["mlp_bias"]}
    block = 2 * hidden
    for name, (inputs, outputs) in projections(backbone).items():
        block += inputs * outputs + (outputs if bias[name.partition(".")[0]] else 0)
    heads = 1 if backbone["tie_word_embeddings"] else 2
    return int(heads * embedding + backbone["num_hidden_layers"] * block + hidden)


def adapter_size(backbone: Mapping[str, Any], adapter: AdapterArch) -> int:
    """Of its bottlenecks and its deltas."""
    bottlenecks = sum(bottleneck_size(backbone["hidden_size"], site.rank) for site in adapter.sites)
    return bottlenecks + adapter.delta_rank * delta_size_per_rank(backbone, adapter.delta_targets)


def bottleneck_size(hidden: int, rank: int) -> int:
    """Of an AnchoredBottleneck: norm (2 hidden), down with bias, up without, gate."""
    return 2 * hidden + (hidden + 1) * rank + rank * hidden + 1


def delta_size_per_rank(backbone: Mapping[str, Any], targets: tuple[str, ...]) -> int:
    """Of rank-1 deltas on the targets of all blocks: a row of inputs and a column of outputs for each."""
    maps = projections(backbone)
    return int(backbone["num_hidden_layers"] * sum(sum(maps[target]) for target in targets))


def router_size(router: RouterArch) -> int:
    """Of the SparseIntentRouter: an embedding of the buckets, a linear map to the classes, and a table of densities.

    The table is counted although it is no torch parameter: it is fitted to data, and it ships.
    """
    n = len(router.classes)
    return router.buckets * (router.width + n) + (router.width + SHALLOW + 1) * n


def tower_size(backbone: Mapping[str, Any], tower: TowerArch) -> int:
    """Of the ports in the backbone and of the ThoughtTower's resampler; its encoder is whatever is put into the slot."""
    if not tower.thought_tokens:
        return 0
    latent, width = tower.latent_size, tower.port_heads * tower.port_head_dim
    port = _attention_size(backbone["hidden_size"], latent, width) + 1  # the gate
    mlp = 2 * latent + (latent + 1) * 2 * latent + (2 * latent + 1) * latent
    look = _attention_size(latent, tower.feature_size, width) + mlp
    resampler = tower.thought_tokens * latent + RESAMPLER_DEPTH * look + 2 * latent
    return int(len(tower.port_blocks) * port + resampler)


def _attention_size(hidden: int, source: int, width: int) -> int:
    """Of a CrossAttention: norm, queries and outputs, keys and values."""
    return 2 * hidden + 2 * hidden * width + 2 * source * width
