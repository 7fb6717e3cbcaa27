"""An adapter in the form of another library.

PEFT knows low-rank deltas (its LoRA) and nothing like an anchored bottleneck: an adapter whose bottlenecks are open has no
PEFT form, and is refused rather than exported without the half that steers.
"""

from __future__ import annotations

import torch

from nexus_core.errors import UsageError
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.assemble import Adapter

Config = dict[str, str | int | float | bool | list[str]]


def peft_state(adapter: Adapter) -> tuple[dict[str, torch.Tensor], Config]:
    """Tensors for `adapter_model.safetensors` and the content of `adapter_config.json`, over `student.plain()`."""
    name = adapter.arch.capability
    if not adapter.arch.delta_rank:
        raise UsageError(f'the adapter "{name}" has no low-rank deltas', "only deltas have a PEFT form")
    for block, site in adapter.sites.items():
        if not isinstance(site, AnchoredBottleneck) or bool(site.gate != 0):
            raise UsageError(
                f'the adapter "{name}" has an open bottleneck after block {block}',
                "bottlenecks have no PEFT form; keep the adapter in its own",
            )
    tensors, targets, alpha = {}, set(), 0.0
    for block_index, projection, delta in adapter.placed_deltas():
        prefix = f"base_model.model.model.layers.{block_index}.{projection}"
        tensors[f"{prefix}.lora_A.weight"] = delta.a.detach().clone()
        tensors[f"{prefix}.lora_B.weight"] = delta.b.detach().clone()
        targets.add(projection.rsplit(".", 1)[-1])
        alpha = delta.alpha
    config: Config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.arch.delta_rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(targets),
    }
    return tensors, config
