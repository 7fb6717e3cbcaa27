"""The training loss of one batch, with its terms by name:

    L = L_output + alpha(step) * L_activation_anchor + beta(step) * L_attention_anchor  [+ prompt_weight * L_prompt]

Logits are computed at answer positions only: prompts are most of the tokens, and a vocabulary is wide.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch.nn import functional

from nexus_core.distill.anchoring import ActivationAnchoringLoss, AnchorSettings
from nexus_core.distill.attention import AttentionAnchoringLoss, AttentionSettings
from nexus_core.distill.attention_targets import HeadMap
from nexus_core.distill.batches import Batch
from nexus_core.distill.looks import TAUGHT, Look, looking
from nexus_core.distill.losses import OutputLoss
from nexus_core.distill.settings import LossSettings, TeachSettings
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.hf.attention import attention_by


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
    `parts` add up over the batches of a step, `means` are averaged over them. `errors` are the anchor errors by student
    block, in the unit of the profile's limits; `anchor` is their weighted mean in whitened units, None where nothing is
    anchored."""

    total: torch.Tensor
    watched: torch.Tensor
    parts: Mapping[str, torch.Tensor] = field(default_factory=dict)
    anchor: torch.Tensor | None = None
    errors: Mapping[int, torch.Tensor] = field(default_factory=dict)
    means: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """A loss of the student on a batch. The student has the capability chosen; autocast is the trainer's."""

    def __call__(self, student: Any, batch: Batch, moment: Moment) -> Terms: ...


class DistillObjective:
    """The full method. Without spaces and heads it is logits-only distillation; without cached logits, cross-entropy."""

    def __init__(
        self,
        settings: TeachSettings,
        spaces: Sequence[AnchorSpace] = (),
        heads: HeadMap | None = None,
        scale: float = 1.0,
    ) -> None:
        """`heads` are those that the rows have attention targets for; `scale` is the capability's (`capability_scales`)."""
        loss = self._loss = settings.loss
        self._scale = scale
        self._output = OutputLoss(
            loss.ce_weight, loss.kl_weight, loss.temperature, loss.entropy_floor, loss.entropy_full
        )
        anneal = round(loss.anneal * settings.steps)
        anchored = loss.alpha_hidden > 0 and any(space.k for space in spaces)
        self._anchor = ActivationAnchoringLoss(spaces, anchor_settings(loss, anneal)) if anchored else None
        looking = loss.beta_attention > 0 and any((heads or {}).values())
        beta = AttentionSettings(loss.beta_attention, loss.beta_floor, anneal)
        self._attention = AttentionAnchoringLoss(heads or {}, beta) if looking else None

    def __call__(self, student: Any, batch: Batch, moment: Moment) -> Terms:
        hidden, seen, looks = self._forward(student, batch)  # (B, T, d)
        output = self._output(student.lm_head(hidden[batch.answer]), batch, self._scale, moment.positions)
        share = batch.positions / (moment.positions or batch.positions)
        terms = {"output": output.total}
        parts = {"ce": output.ce, "kl": output.kl, "nll": output.nll}
        watched = self._loss.ce_weight * output.nll + self._loss.kl_weight * output.kl
        anchor, errors = None, dict[int, torch.Tensor]()
        if self._loss.prompt_weight:
            terms["prompt"] = share * self._loss.prompt_weight * prompt_loss(student, hidden, batch)
        if self._anchor is not None:
            z = {block: coordinates[batch.answer] for block, coordinates in seen.items()}
            held = self._anchor(z, batch, moment.step, moment.boost)
            terms["anchor"], errors = share * self._loss.anchor_scale * held.total, dict(held.errors)
            anchor = torch.stack(list(held.blocks.values())).mean() if held.blocks else None
        if self._attention is not None:
            looked = self._attention(looks, batch, moment.step, moment.boost)
            terms["attention"] = share * looked.total
            parts |= {f"attention_error/{block}": share * error for block, error in looked.blocks.items()}
        for name in ("anchor", "attention"):
            if name in terms:
                watched = watched + terms[name].detach() / moment.boost
        total = torch.stack(list(terms.values())).sum()
        parts |= {name: value.detach() for name, value in terms.items()}
        return Terms(total, watched, parts, anchor, errors)

    def _forward(self, student: Any, batch: Batch) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, Look]]:
        """Hidden states, bottleneck coordinates by block, and where heads look; the last two where they are needed."""
        looks = self._attention.asks(batch) if self._attention is not None else {}
        with ExitStack() as stack:
            seen = stack.enter_context(student.recording()) if self._anchor is not None else {}
            stack.enter_context(attention_by(student, TAUGHT))
            stack.enter_context(looking(student, looks))
            hidden = student.model(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        return hidden, seen, looks


def anchor_settings(loss: LossSettings, anneal_steps: int) -> AnchorSettings:
    """The anchoring's own numbers."""
    return AnchorSettings(
        critical_weight=loss.critical_weight,
        alpha_hidden=loss.alpha_hidden,
        alpha_floor=loss.alpha_floor,
        anneal_steps=anneal_steps,
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
