"""Adapters that the `peft` library reads, each over one plain base.

LoRA holds the deltas as they are. Bottlenecks it holds too, where the base keeps a place for them: the base then is the
backbone with a block that changes nothing after each block that an adapter steers (see `plain`), and the adapter's LoRA
on that block's MLP is the bottleneck. Adapters without an open bottleneck stand on the backbone as it is.

    base/          a checkpoint          NAME/adapter_config.json, adapter_model.safetensors
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from nexus_core.bundle.export.files import DTYPES, read_checkpoint, rounded, write_checkpoint
from nexus_core.bundle.export.plain import adapter_of, gate_down_bias, open_bottlenecks, placed, with_places
from nexus_core.errors import UsageError
from nexus_core.hf.quiet import quiet
from nexus_core.hf.text import TextModel
from nexus_core.hf.tokenizer import load_tokenizer
from nexus_core.student.adapter import FoldedBottleneck
from nexus_core.student.assemble import Adapter
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM

BASE, WEIGHTS, CONFIG = "base", "adapter_model.safetensors", "adapter_config.json"
_PREFIX = "base_model.model."
Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]


def write_peft(path: Path, student: Student, capabilities: Sequence[str], dtype: str) -> None:
    """The base and an adapter for each capability, into the directory `path`."""
    if BASE in capabilities:
        raise UsageError(f'a capability called "{BASE}" has no place beside the base', "export another one")
    model = student.model
    with torch.no_grad():
        found = {name: open_bottlenecks(adapter_of(model, name)) for name in capabilities}
        after = sorted({block for bottlenecks in found.values() for block in bottlenecks})
        rank = max((len(b.bias) for bottlenecks in found.values() for b in bottlenecks.values()), default=0)
        base = rounded(with_places(model, after, rank, attention_bias=True), dtype)
        write_checkpoint(path / BASE, base, student.tokenizer)
        for name, bottlenecks in found.items():
            tensors, config = _form(model, name, bottlenecks, after, base.config.intermediate_size)
            (path / name).mkdir()
            save_file({key: t.to(DTYPES[dtype]).contiguous() for key, t in tensors.items()}, path / name / WEIGHTS)
            (path / name / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def read_peft(path: Path, capability: str) -> TextModel:
    """What was written, by transformers and peft."""
    try:
        from peft import PeftModel
    except ImportError as error:
        raise UsageError("an export to PEFT is tried before it is given out, and peft is missing", _GET) from error
    with quiet(), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # peft asks for it
        model = PeftModel.from_pretrained(read_checkpoint(path / BASE), path / capability)
    return TextModel(model.eval(), load_tokenizer(path / BASE), "the export")


_GET = "pip install peft"


def _form(
    model: NexusForCausalLM, name: str, bottlenecks: Mapping[int, FoldedBottleneck], after: Sequence[int], width: int
) -> tuple[Tensors, Config]:
    """`after`: the blocks with a place after them, whether this adapter fills it or not."""
    if not after:
        return model.peft_state(name)
    adapter = adapter_of(model, name)
    places = placed(len(model.blocks), after)
    tensors, ranks, scales = _deltas(adapter, places)
    for block, bottleneck in bottlenecks.items():
        mlp = f"model.layers.{places[block] + 1}.mlp"
        rank = len(bottleneck.bias)
        gate, down, bias = gate_down_bias(bottleneck)
        into, out = torch.eye(width, rank), torch.eye(rank, width)  # the first channels of a wider MLP
        wide = torch.nn.functional.pad(bias, (0, width - rank))
        tensors |= _lora(f"{mlp}.gate_proj", gate, into, wide)
        tensors |= _lora(f"{mlp}.down_proj", out, down, torch.zeros(len(down)))
        ranks |= {f"{mlp}.gate_proj": rank, f"{mlp}.down_proj": rank}
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": adapter.arch.delta_rank or 1,
        "lora_alpha": adapter.arch.delta_rank or 1,
        "lora_bias": True,
        "lora_dropout": 0.0,
        "bias": "none",
        "inference_mode": True,
        "target_modules": sorted(ranks),
        "rank_pattern": ranks,
        "alpha_pattern": {**ranks, **scales},
    }
    return tensors, config


def _deltas(adapter: Adapter, places: Sequence[int]) -> tuple[Tensors, dict[str, int], dict[str, float]]:
    """Tensors, and each module's rank and alpha."""
    tensors: Tensors = {}
    ranks: dict[str, int] = {}
    scales: dict[str, float] = {}
    for block, projection, delta in adapter.placed_deltas():
        module = f"model.layers.{places[block]}.{projection}"
        tensors |= _lora(module, delta.a, delta.b, torch.zeros(len(delta.b)))
        ranks[module], scales[module] = delta.rank, delta.alpha
    return tensors, ranks, scales


def _lora(module: str, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> Tensors:
    prefix = f"{_PREFIX}{module}.lora_"
    return {f"{prefix}A.weight": a.detach(), f"{prefix}B.weight": b.detach(), f"{prefix}B.bias": bias.detach()}
