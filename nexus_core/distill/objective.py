"""The training loss of one batch, with its terms by name:

    L = L_output + alpha(step) * L_activation_anchor + beta(step) * L_attention_anchor  [+ prompt_weight * L_prompt]

Logits are computed at answer positions only: prompts are most of the tokens, and a vocabulary is wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional

from nexus_core.distill.anchoring import ActivationAnchoringLoss, AnchorSettings
from nexus_core.distill.batches import Batch
from nexus_core.distill.losses import OutputLoss
from nexus_core.distill.settings import LossSettings, TeachSettings
from nexus_core.distill.spaces import AnchorSpace


@dataclass(frozen=True, slots=True)
class Moment:
    """Where in the training a loss is asked for. `boost` multiplies the anchor weights (recovery raises it); `positions`
    are the answer positions of all batches that the step accumulates, which the means divide by."""

    step: int
    boost: float = 1.0
    positions: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Terms:
    """`total` has a gradient. `watched` is what recovery compares over steps: never negative, and without the boost.
    `errors` are the anchor errors by student block, in the unit of the profile's limits; `anchor` is their weighted mean in
    whitened units, None where nothing is anchored."""

    total: torch.Tensor
    watched: torch.Tensor
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    anchor: torch.Tensor | None = None
    errors: Mapping[int, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A loss of the student on a batch. The student has the capability chosen; autocast is the trainer's."""

    def __call__(self, student: Any, batch: Batch, moment: Moment) -> Terms: ...


class DistillObjective:
    """The full method; without spaces it is logits-only distillation, without cached logits plain cross-entropy."""

    def __init__(self, settings: TeachSettings, spaces: Sequence[AnchorSpace] = (), scale: float = 1.0) -> None:
        loss = settings.loss
        self._loss = loss
        self._scale = scale
        self._output = OutputLoss(
            loss.ce_weight, loss.kl_weight, loss.temperature, loss.entropy_floor, loss.entropy_full
        )
        anchored = any(space.k for space in spaces) and loss.alpha_hidden > 0
        self._anchor = ActivationAnchoringLoss(spaces, anchor_settings(loss, settings.steps)) if anchored else None

    def __call__(self, student: Any, batch: Batch, moment: Moment) -> Terms:
        recording: AbstractContextManager[Any] = student.recording() if self._anchor is not None else nullcontext({})
        with recording as seen:
            hidden = student.model(
                input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False
            ).last_hidden_state  # (B, T, d)
        output = self._output(student.lm_head(hidden[batch.answer]), batch, self._scale, moment.positions)
        share = batch.positions / (moment.positions or batch.positions)
        total, watched = output.total, self._loss.ce_weight * output.nll + self._loss.kl_weight * output.kl
        parts = {"ce": output.ce, "kl": output.kl, "nll": output.nll}
        if self._loss.prompt_weight:
            parts["prompt"] = prompt = share * prompt_loss(student, hidden, batch)
            total = total + self._loss.prompt_weight * prompt
        if self._anchor is None:
            return Terms(total, watched, _detached(parts))
        z = {block: coordinates[batch.answer] for block, coordinates in seen.items()}
        anchored = self._anchor(z, batch, moment.step, moment.boost)
        total, watched = total + share * anchored.total, watched + share * anchored.total.detach() / moment.boost
        parts |= {"anchor": share * anchored.total, "output": output.total}
        mean = torch.stack(list(anchored.blocks.values())).mean() if anchored.blocks else None
        return Terms(total, watched, _detached(parts), mean, anchored.errors)


def anchor_settings(loss: LossSettings, steps: int) -> AnchorSettings:
    """The anchoring's own numbers, with the share of the steps as steps."""
    return AnchorSettings(
        critical_weight=loss.critical_weight,
        alpha_hidden=loss.alpha_hidden,
        alpha_floor=loss.alpha_floor,
        anneal_steps=round(loss.anneal * steps),
        variance_least=loss.variance_least,
        variance_most=loss.variance_most,
    )


def prompt_loss(student: Any, hidden: torch.Tensor, batch: Batch) -> torch.Tensor:
    """Cross-entropy of the prompt's own tokens, a mean over them; 0 where every prompt is one token."""
    inside = batch.attention_mask[:, 1:].bool() & ~batch.answer[:, :-1]  # the next token is real, and no answer's
    labels = batch.input_ids[:, 1:][inside]
    if not len(labels):
        return hidden.new_zeros(())
    return functional.cross_entropy(student.lm_head(hidden[:, :-1][inside]).float(), labels)


def _detached(parts: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in parts.items()}


def autocast(device: str, precision: str) -> AbstractContextManager[Any]:
    """bf16 for products where asked for, or where "auto" finds that the device computes it; parameters stay fp32."""
    wanted = precision == "bf16" or (precision == "auto" and computes_bf16(device))
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16) if wanted else nullcontext()


def computes_bf16(device: str) -> bool:
    """Whether the device has instructions for bf16 products: emulated ones are slower than fp32."""
    if torch.device(device).type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    known = torch.cpu.get_capabilities()
    return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
