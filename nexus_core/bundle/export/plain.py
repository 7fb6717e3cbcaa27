"""A student with one capability as an ordinary Llama, which is the form that other tools read.

Deltas are added to the weights that they change. A bottleneck becomes a Llama block of its own, after the block that it
follows: its attention gives nothing, and its MLP computes

    h + down(silu(gate(x) + b) * (up(x) + 1))      gate = W_down P, up = 0, down = tanh(g) W_up, P: minus the mean

which is the bottleneck, but for x: RMSNorm divides by sqrt(mean(h^2)) where the bottleneck's LayerNorm divides by the
deviation from the mean of h. They differ by the factor sqrt(1 - mean(h)^2 / mean(h^2)), about 1 - 1 / (2 d) for a residual
stream of d channels that leans nowhere. No plain Llama can do better, so an export is scored before it is believed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import torch
from torch import nn
from transformers import LlamaForCausalLM

from nexus_core.errors import UsageError
from nexus_core.student import assemble
from nexus_core.student.adapter import AnchoredBottleneck, FoldedBottleneck
from nexus_core.student.assemble import Adapter
from nexus_core.student.model import NexusForCausalLM


def as_plain(student: NexusForCausalLM, capability: str | None, allow_isolated: bool = False) -> LlamaForCausalLM:
    """The backbone alone (None), or what it is with the adapter of `capability`."""
    if capability is None:
        return student.plain().eval()
    with torch.no_grad(), student.using(capability, allow_isolated):
        adapter = adapter_of(student, capability)
        bottlenecks = open_bottlenecks(adapter)
        plain = with_places(student, bottlenecks, max((len(b.bias) for b in bottlenecks.values()), default=0))
        places = placed(len(student.blocks), bottlenecks)
        for index, block in enumerate(student.blocks):
            for name, projection in assemble.projections(block):
                _corner(_weight(plain, places[index], name).data, projection.effective_weight())
        for index, bottleneck in bottlenecks.items():
            _fill(plain, places[index] + 1, bottleneck)
    return plain


def adapter_of(student: NexusForCausalLM, capability: str) -> Adapter:
    """The adapter of a capability that the student is known to have."""
    return cast(Adapter, student.adapters[capability])


def open_bottlenecks(adapter: Adapter) -> dict[int, FoldedBottleneck]:
    """The bottlenecks that do something, by the block that they follow."""
    found: dict[int, FoldedBottleneck] = {}
    for block, site in adapter.sites.items():
        if not isinstance(site, AnchoredBottleneck):
            raise UsageError(
                f'the adapter "{adapter.arch.capability}" has a {type(site).__name__} after block {block}',
                "only anchored bottlenecks and low-rank deltas have a form outside of Nexus",
            )
        if bool(site.gate != 0):
            found[int(block)] = site.folded()
    return found


def placed(blocks: int, after: Collection[int]) -> list[int]:
    """Where each block of the backbone stands when every block of `after` is followed by one more."""
    return [index + sum(block < index for block in after) for index in range(blocks)]


def with_places(
    student: NexusForCausalLM, after: Collection[int], rank: int, attention_bias: bool = False
) -> LlamaForCausalLM:
    """The backbone with a block that changes nothing after each of `after`, wide enough for a bottleneck of `rank`."""
    if not after:
        return student.plain().eval()
    config = assemble.plain_config(student.config)
    config.attention_bias = config.attention_bias or attention_bias
    config.num_hidden_layers += len(after)
    config.intermediate_size = max(config.intermediate_size, rank)
    config.mlp_bias = True
    with assemble.apart(), torch.no_grad():
        plain = LlamaForCausalLM(config).to(student.lm_head.weight.dtype).eval()
        for layer in plain.model.layers:
            _close(layer)
        source, target = student.backbone_state(), plain.state_dict()
        places = placed(len(student.blocks), after)
        for name, tensor in source.items():
            parts = name.split(".")
            if parts[:2] == ["model", "layers"]:
                parts[2] = str(places[int(parts[2])])
            _corner(target[".".join(parts)], tensor)
        for index in after:
            plain.get_parameter(f"model.layers.{places[index] + 1}.mlp.up_proj.bias").fill_(1.0)
    plain.generation_config = student.plain().generation_config
    return plain


def _close(layer: nn.Module) -> None:
    """Zeros everywhere but in the norms."""
    for name, parameter in layer.named_parameters():
        parameter.fill_(1.0 if "layernorm" in name else 0.0)


def _corner(target: torch.Tensor, source: torch.Tensor) -> None:
    """A wider MLP's first channels are the narrower one's; the others stay zero."""
    target[tuple(slice(size) for size in source.shape)].copy_(source)


def _weight(plain: LlamaForCausalLM, block: int, name: str) -> nn.Parameter:
    return cast(nn.Parameter, plain.get_parameter(f"model.layers.{block}.{name}.weight"))


def _fill(plain: LlamaForCausalLM, block: int, bottleneck: FoldedBottleneck) -> None:
    """Open a closed block: its MLP becomes this bottleneck."""
    gate, down, bias = gate_down_bias(bottleneck)
    _corner(_weight(plain, block, "mlp.gate_proj").data, gate)
    _corner(_weight(plain, block, "mlp.down_proj").data, down)
    _corner(plain.get_parameter(f"model.layers.{block}.mlp.gate_proj.bias").data, bias)


def gate_down_bias(bottleneck: FoldedBottleneck) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A bottleneck as the weights of an MLP whose `up` is one: gate (rank, d), down (d, rank), bias (rank)."""
    centred = bottleneck.down - bottleneck.down.mean(dim=1, keepdim=True)  # W P: no input's mean passes
    return centred, bottleneck.up.T.contiguous(), bottleneck.bias
