"""The optimizer of a phase: who is trained at which rate, in how many bits, on which schedule.

The schedule is a pure function of the step: a resumed run, or one that went back to a checkpoint, needs no state of it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nexus_core.distill.settings import OptimizerSettings, PhaseSettings
from nexus_core.errors import UsageError

Named = Mapping[str, nn.Parameter]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a phase trains, by the student's names of its parameters."""

    adapter: Named
    backbone: Named

    @property
    def all(self) -> dict[str, nn.Parameter]:
        return {**self.adapter, **self.backbone}

    @property
    def size(self) -> int:
        return sum(parameter.numel() for parameter in self.all.values())


def select_trained(student: nn.Module, capabilities: Sequence[str], phase: PhaseSettings) -> Trained:
    """Freeze the whole student, then thaw the adapters of these capabilities and the last blocks of the backbone, if any.

    A parameter that is not named here has no gradient, is in no optimizer, and so keeps its bytes.
    """
    prefixes = tuple(f"adapters.{capability}." for capability in capabilities)
    thawed = _last_blocks(student, phase)
    adapter: dict[str, nn.Parameter] = {}
    backbone: dict[str, nn.Parameter] = {}
    for name, parameter in student.named_parameters():
        if name.startswith(prefixes):
            adapter[name] = parameter
        elif name.startswith(thawed):
            backbone[name] = parameter
    for capability, prefix in zip(capabilities, prefixes, strict=True):
        if not any(name.startswith(prefix) for name in adapter):
            raise UsageError(f'the student has no adapter "{capability}" to train', "add it first: student.add_adapter")
    student.requires_grad_(False)
    for parameter in (*adapter.values(), *backbone.values()):
        parameter.requires_grad_(True)
    return Trained(adapter, backbone)


def _last_blocks(student: nn.Module, phase: PhaseSettings) -> tuple[str, ...]:
    if not (phase.backbone_rate and phase.backbone_blocks):
        return ()
    if phase.backbone_blocks < 0:
        return ("model.", "lm_head.")
    layers = student.get_submodule("model.layers")
    assert isinstance(layers, nn.ModuleList)
    first = max(len(layers) - phase.backbone_blocks, 0)
    return tuple(f"model.layers.{index}." for index in range(first, len(layers)))


def build_optimizer(trained: Trained, phase: PhaseSettings, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over four groups: adapter and backbone, each with and without decay. `rate` is a group's own peak rate."""
    groups = [
        *_groups(trained.adapter, phase.adapter_rate, settings.weight_decay, backbone=False),
        *_groups(trained.backbone, phase.backbone_rate, settings.weight_decay, backbone=True),
    ]
    betas = (settings.beta1, settings.beta2)
    if bits(settings, trained.size) == 8:
        return _eight_bit(groups, betas)
    return torch.optim.AdamW(groups, betas=betas, fused=True)


def _eight_bit(groups: list[dict[str, Any]], betas: tuple[float, float]) -> torch.optim.Optimizer:
    from bitsandbytes.optim import AdamW8bit, PagedAdamW8bit

    # Pages move between a GPU's memory and the host's: on a CPU there is nothing to move.
    kind = AdamW8bit if groups[0]["params"][0].device.type == "cpu" else PagedAdamW8bit
    return kind(groups, betas=betas)  # type: ignore[no-any-return]


def bits(settings: OptimizerSettings, size: int) -> int:
    """8 or 32 bits of optimizer state per trained parameter. Below a few million there is nothing to save."""
    if settings.kind == "auto":
        return 8 if size >= settings.eight_bit_from else 32
    return 8 if settings.kind == "adamw8bit" else 32


def _groups(parameters: Named, rate: float, decay: float, backbone: bool) -> list[dict[str, Any]]:
    # Norms, biases and gates (fewer than two dimensions) are scales around a value that is not 0: decay would pull at it.
    matrices = [parameter for parameter in parameters.values() if parameter.ndim >= 2]
    others = [parameter for parameter in parameters.values() if parameter.ndim < 2]
    named = [(matrices, decay), (others, 0.0)]
    own = {"rate": rate, "lr": rate, "backbone": backbone}
    return [{"params": p, "weight_decay": d, **own} for p, d in named if p]


def rate_share(step: int, phase: PhaseSettings, final: float) -> float:
    """Share of the peak rate at `step` of a phase (from 0): a linear warm-up, then a cosine down to `final`."""
    if step < phase.warm_up:
        return (step + 1) / phase.warm_up
    progress = (step - phase.warm_up) / max(phase.steps - phase.warm_up, 1)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def set_rate(optimizer: torch.optim.Optimizer, share: float, adapters_only: bool = False) -> None:
    """Every group at `share` of its own peak rate; the backbone at none where only adapters may move."""
    for group in optimizer.param_groups:
        group["lr"] = 0.0 if adapters_only and group["backbone"] else group["rate"] * share


def gradient_norm(parameters: Iterable[nn.Parameter], clip: float) -> torch.Tensor:
    """The norm before clipping to `clip`. Not finite: nothing should be stepped with these gradients."""
    return nn.utils.clip_grad_norm_(list(parameters), clip)
