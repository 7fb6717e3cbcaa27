"""When training must go back, as a pure state machine: it sees numbers, and says what to do. It touches no tensor.

    loss spike          loss > spike_factor * running average of the loss, and > that average + spike_least
    not a number        the loss or the gradient's norm is NaN or infinite
    anchor drift        running average of the anchor error > (1 + anchor_tolerance) * its best so far, and > anchor_least
    failed repair       the hard check on held-out inputs is over its threshold, and still is after the repair

Each means: discard the batch, go back to the best checkpoint with optimizer and RNG, anchor weight x raise_anchor, rate
x cut_rate. A bounded number of times; then the adapter has failed, and says why each time.

The loss is watched *without* the raised anchor weight: otherwise each recovery would look like the next spike. A sick
observation never enters an average, so a loss that stays high stays a spike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from nexus_core.distill.settings import RecoverySettings
from nexus_core.errors import NexusError


class DistillFailed(NexusError):
    """An adapter could not be taught; the message lists each attempt."""


class Cause(StrEnum):
    """Why training went back."""

    LOSS_NOT_FINITE = "the loss is not finite"
    GRADIENT_NOT_FINITE = "the gradient is not finite"
    SPIKE = "loss spike"
    DRIFT = "anchor error over its baseline"
    REPAIR = "anchor error on held-out inputs over its limit after the repair"


@dataclass(frozen=True, slots=True)
class Rollback:
    """One return to the best checkpoint. `detail` has the numbers; `position` is the batch that was discarded."""

    step: int
    position: int
    cause: str
    detail: str


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is wrong with a step, with its numbers."""

    cause: Cause
    detail: str

    def at(self, step: int, position: int) -> Rollback:
        """The rollback that it leads to."""
        return Rollback(step, position, self.cause.value, self.detail)


@dataclass(frozen=True, slots=True)
class Watched:
    """The numbers of one step. `anchors` are the errors of the capabilities that are anchored and had a batch in it: each
    has its own level, and whose turn it is must not look like drift."""

    loss: float
    anchors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Anchored:
    """The running average of one capability's anchor error over `seen` steps."""

    average: float = 0.0
    seen: int = 0
    best: float | None = None  # the lowest running average since it can be trusted

    def after(self, error: float, settings: RecoverySettings) -> Anchored:
        """With one healthy step more."""
        average = _blend(self.average, error, min(settings.anchor_decay, _plain(self.seen)))
        best = self.best
        if self.seen + 1 >= settings.settle:
            best = average if best is None else min(best, average)
        return Anchored(average, self.seen + 1, best)


@dataclass(frozen=True, slots=True)
class Averages:
    """Running averages over `seen` healthy steps; they belong to the weights, and go back with them."""

    loss: float = 0.0
    seen: int = 0
    anchors: Mapping[str, Anchored] = field(default_factory=dict)

    def after(self, watched: Watched, settings: RecoverySettings) -> Averages:
        """With one healthy step more. A plain mean at first, which then forgets at the rate of its decay."""
        loss = _blend(self.loss, watched.loss, min(settings.average_decay, _plain(self.seen)))
        new = {name: self.anchor(name).after(error, settings) for name, error in watched.anchors.items()}
        return Averages(loss, self.seen + 1, {**self.anchors, **new})

    def anchor(self, capability: str) -> Anchored:
        """What is known of one capability's anchor error."""
        return self.anchors.get(capability, Anchored())


def _plain(seen: int) -> float:
    """The decay that makes a running average the mean of all."""
    return seen / (seen + 1)


def _blend(old: float, new: float, decay: float) -> float:
    return decay * old + (1 - decay) * new


@dataclass(frozen=True, slots=True)
class RecoveryState:
    """Stored in every checkpoint. What a rollback changed (scales, the list of rollbacks) outlives the next one."""

    averages: Averages = Averages()
    anchor_scale: float = 1.0
    rate_scale: float = 1.0
    healthy: int = 0  # steps since the last trouble
    rollbacks: tuple[Rollback, ...] = ()
    checked: float | None = None  # the best anchor error that a hard check measured
    repair_left: int | None = None  # steps that an adapters-only pass still has to make; None: there is none


def judge(state: RecoveryState, watched: Watched, settings: RecoverySettings) -> Trouble | None:
    """What is wrong with this step, before it is made."""
    if not all(map(math.isfinite, (watched.loss, *watched.anchors.values()))):
        return Trouble(Cause.LOSS_NOT_FINITE, f"loss {watched.loss}, anchor error {_listed(watched.anchors)}")
    averages = state.averages
    if averages.seen < settings.settle:
        return None
    limit = max(settings.spike_factor * averages.loss, averages.loss + settings.spike_least)
    if watched.loss > limit:
        numbers = f"loss {watched.loss:.4g}, running average {averages.loss:.4g}, limit {limit:.4g}"
        return Trouble(Cause.SPIKE, numbers)
    for name, error in watched.anchors.items():
        known = averages.anchor(name)
        if known.best is None:
            continue
        drifted = known.after(error, settings).average
        limit = max((1 + settings.anchor_tolerance) * known.best, settings.anchor_least)
        if drifted > limit:
            numbers = f"running average {drifted:.4g}, baseline {known.best:.4g}, limit {limit:.4g}"
            return Trouble(Cause.DRIFT, f"{name}: {numbers}" if name else numbers)
    return None


def _listed(anchors: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {error}".strip() for name, error in anchors.items()) or "None"


def judge_gradient(norm: float) -> Trouble | None:
    """What is wrong with the gradient of a step whose loss was healthy."""
    return None if math.isfinite(norm) else Trouble(Cause.GRADIENT_NOT_FINITE, f"gradient norm {norm}")


def accept(state: RecoveryState, watched: Watched, settings: RecoverySettings) -> RecoveryState:
    """The state after a healthy step. A rate that was cut comes back by one cut after each `heal_after` of them."""
    healthy, rate = state.healthy + 1, state.rate_scale
    if settings.heal_after and healthy % settings.heal_after == 0:
        rate = min(1.0, rate / settings.cut_rate)
    left = None if state.repair_left is None else max(state.repair_left - 1, 0)
    averages = state.averages.after(watched, settings)
    return replace(state, averages=averages, healthy=healthy, rate_scale=rate, repair_left=left)


def go_back(state: RecoveryState, trouble: Rollback, best: RecoveryState, settings: RecoverySettings) -> RecoveryState:
    """The state after a return to a checkpoint whose state was `best`; DistillFailed when it is one too many."""
    rollbacks = (*state.rollbacks, trouble)
    if len(rollbacks) > settings.most_rollbacks:
        listed = "; ".join(f"step {r.step}: {r.cause} ({r.detail})" for r in rollbacks)
        raise DistillFailed(
            f"training went back {settings.most_rollbacks} times, which is the limit, and failed again: {listed}",
            "look at these steps in steps.jsonl and at their batches; lower the phase's rate, or raise "
            "recovery.most_rollbacks",
        )
    # Drift is measured against what one came back to: a luckier moment before it could never be reached again.
    known = best.averages.anchors.items()
    anchors = {name: replace(one, best=None if one.best is None else one.average) for name, one in known}
    return replace(
        state,
        averages=replace(best.averages, anchors=anchors),
        anchor_scale=state.anchor_scale * settings.raise_anchor,
        rate_scale=state.rate_scale * settings.cut_rate,
        healthy=0,
        rollbacks=rollbacks,
        checked=best.checked,
        repair_left=None,
    )


def check_due(state: RecoveryState, step: int, settings: RecoverySettings) -> bool:
    """Whether the hard check follows when `step` steps are made: every `check_every`, and after a repair."""
    if state.repair_left is not None:
        return state.repair_left == 0
    return bool(settings.check_every) and step % settings.check_every == 0


def check(
    state: RecoveryState, error: float, settings: RecoverySettings, harmless: bool = False
) -> tuple[RecoveryState, Trouble | None]:
    """After the hard check: go on, repair, or (the repair did not help) go back.

    A repair is an adapters-only pass of `repair_steps` with the anchor weight x `repair_anchor`. An error that profiling
    measured as `harmless` to the teacher needs none.
    """
    best = error if state.checked is None else min(state.checked, error)
    limit = max((1 + settings.check_tolerance) * best, settings.anchor_least)
    if harmless or error <= limit:
        return replace(state, checked=best, repair_left=None), None
    if state.repair_left is None and settings.repair_steps:
        return replace(state, repair_left=settings.repair_steps), None
    return state, Trouble(Cause.REPAIR, f"error {error:.4g}, best {best:.4g}, limit {limit:.4g}")


def anchor_factor(state: RecoveryState, settings: RecoverySettings) -> float:
    """What multiplies the scheduled anchor weight."""
    return state.anchor_scale * (settings.repair_anchor if state.repair_left else 1.0)


def state_from(raw: Mapping[str, Any]) -> RecoveryState:
    """The state that `dataclasses.asdict` was given."""
    rollbacks = tuple(Rollback(**item) for item in raw["rollbacks"])
    averages = raw["averages"]
    anchors = {name: Anchored(**one) for name, one in averages["anchors"].items()}
    return RecoveryState(**{**raw, "averages": Averages(**{**averages, "anchors": anchors}), "rollbacks": rollbacks})
