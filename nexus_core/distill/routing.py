"""Teach the router which adapter a prompt is for, fit its doubt on prompts that it was not taught, and measure it.

What is right comes from the capability that a prompt belongs to and, where both were tried, from the comparison of
versions: the adapter that scored best on this very input, or the plain backbone if that scored better than all of them.
Nothing rewards certainty, and nothing balances the load. Three splits of the packs, each for one thing: TRAIN for the
weights and the densities, PROFILE for temperature and floors, VERIFY for the report.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn import functional

from nexus_core.distill.routing_report import Measured, RouterReport, report_of
from nexus_core.distill.routing_texts import foreign_texts, negatives
from nexus_core.errors import DataError
from nexus_core.evaluation import draw
from nexus_core.plugins import Plugins
from nexus_core.student.arch import RouterArch
from nexus_core.student.router import SparseIntentRouter
from nexus_core.student.router_features import Features
from nexus_core.types import SampleRequest, Split

PLAIN = "backbone"  # the plain backbone's name among the scores of a comparison
Prompts = Mapping[str, Sequence[str]]  # by capability
Outcomes = Mapping[str, Mapping[str, float]]  # prompt -> score of each version that was tried on it; higher is better


@dataclass(frozen=True, slots=True)
class RouterSettings:
    """How the router is taught. A floor lies `slack` times as far below the middle of its held-out prompts as their least.

    The least of a few hundred prompts is not the least of all: at a slack of 1 every few hundredth prompt is refused.
    """

    router_lr: float = 0.02
    router_epochs: int = 6
    batch_size: int = 64
    train_prompts: int = 800  # of each capability
    held_out_prompts: int = 400  # of each capability, for calibration and for the report each
    negative_prompts: int = 2400
    slack: float = 1.3


@dataclass(frozen=True, slots=True)
class RoutingPrompts:
    """Prompts of each class in three parts that share none, and foreign texts by kind for the report."""

    train: Prompts
    calibrate: Prompts
    verify: Prompts
    foreign: Prompts = field(default_factory=dict)


def routing_prompts(classes: Sequence[str], settings: RouterSettings, seed: int) -> RoutingPrompts:
    """The packs' own prompts."""

    def drawn(split: Split, n: int) -> dict[str, list[str]]:
        request = SampleRequest(split, n, seed)
        return {c: [s.prompt for s in draw(Plugins([c]).capability_metric(c), request)] for c in classes}

    held_out = settings.held_out_prompts
    parts = (drawn(Split.TRAIN, settings.train_prompts), drawn(Split.PROFILE, held_out), drawn(Split.VERIFY, held_out))
    return RoutingPrompts(*parts, foreign=foreign_texts(100, seed))


def train_router(
    arch: RouterArch,
    prompts: RoutingPrompts,
    outcomes: Outcomes | None = None,
    unrelated: Sequence[str] | None = None,
    settings: RouterSettings = RouterSettings(),
    seed: int = 42,
) -> tuple[SparseIntentRouter, RouterReport]:
    """A trained router and what it does on prompts that neither its weights nor its floors have seen.

    `outcomes` override the labels of prompts where another version scored better. `unrelated` are texts for no adapter.
    """
    started = time.perf_counter()
    compared = outcomes or {}
    router = SparseIntentRouter(arch, seed)
    texts = list(unrelated) if unrelated is not None else negatives(settings.negative_prompts, seed)
    kept = max(1, len(texts) // 5)  # of five, one is for the temperature
    train = _examples(router, prompts.train, compared, texts[kept:])
    calibrate = _examples(router, prompts.calibrate, compared, texts[:kept])
    _fit_densities(router, train)
    _fit_weights(router, train, settings, seed)
    router.eval()
    _fit_temperature(router, calibrate)
    _fit_floors(router, calibrate, settings.slack)
    seconds = time.perf_counter() - started
    verify = _labelled(arch, prompts.verify, compared)
    return router, report_of(router, Measured(verify, prompts.foreign, seconds))


@dataclass(frozen=True, slots=True)
class _Examples:
    features: Features
    targets: torch.Tensor  # (N,) index of the class, -1 for none of them


def _labelled(arch: RouterArch, prompts: Prompts, outcomes: Outcomes) -> list[tuple[str, int]]:
    """Each prompt with the index of its class."""
    if set(prompts) != set(arch.classes):
        named, wanted = ", ".join(sorted(prompts)), ", ".join(sorted(arch.classes))
        raise DataError(f"router: there are prompts of {named or 'nothing'}", f"its classes are: {wanted}")
    if empty := [name for name in arch.classes if not prompts[name]]:
        raise DataError(f'router: there are no prompts of "{empty[0]}"', "each class needs prompts in every part")
    return [
        (prompt, _best(arch.classes, name, outcomes.get(prompt, {})))
        for name in arch.classes
        for prompt in prompts[name]
    ]


def _best(classes: Sequence[str], label: str, scores: Mapping[str, float]) -> int:
    """The class that scored best; a tie is the label's, then the plain backbone's, then the first class's."""
    if unknown := sorted(set(scores) - {*classes, PLAIN}):
        raise DataError(f'router: a comparison has a score of "{unknown[0]}"', f"known: {', '.join(classes)}, {PLAIN}")
    best = max(scores.values(), default=0.0)
    if not scores or scores.get(label) == best:
        return classes.index(label)
    if scores.get(PLAIN) == best:
        return -1
    return next(i for i, name in enumerate(classes) if scores.get(name) == best)


def _examples(router: SparseIntentRouter, prompts: Prompts, outcomes: Outcomes, unrelated: Sequence[str]) -> _Examples:
    labelled = _labelled(router.arch, prompts, outcomes) + [(text, -1) for text in unrelated]
    return _Examples(router.features([text for text, _ in labelled]), torch.tensor([target for _, target in labelled]))


def _one_hot(targets: torch.Tensor, classes: int) -> torch.Tensor:
    """(N, n) of 0 and 1; a row of zeros for none of them."""
    return functional.one_hot(targets + 1, classes + 1)[:, 1:].float()


def _fit_densities(router: SparseIntentRouter, examples: _Examples) -> None:
    """log p(bucket | class): counted, not learned. Half a prompt's worth of mass is spread over all buckets."""
    buckets, n = router.log_density.shape
    owner = np.repeat(examples.targets.numpy(), np.diff(examples.features.starts))
    mass = np.full((buckets, n), 0.5 / buckets)
    inside = owner >= 0
    np.add.at(mass, (examples.features.ids[inside], owner[inside]), examples.features.weights[inside])
    router.log_density.copy_(torch.from_numpy(np.log(mass / mass.sum(axis=0))))


def _fit_weights(router: SparseIntentRouter, examples: _Examples, settings: RouterSettings, seed: int) -> None:
    """One question per class, AdamW, the rate falling to 0 in a straight line."""
    wanted = _one_hot(examples.targets, len(router.arch.classes))
    optimiser = torch.optim.AdamW(router.parameters(), lr=settings.router_lr, weight_decay=1e-2)
    steps = settings.router_epochs * -(-len(wanted) // settings.batch_size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: max(0.0, 1.0 - step / steps))
    order = np.random.default_rng(seed)
    router.train()
    for _ in range(settings.router_epochs):
        shuffled = order.permutation(len(wanted))
        for start in range(0, len(shuffled), settings.batch_size):
            rows = shuffled[start : start + settings.batch_size]
            logits = router(examples.features.take(rows.tolist())).logits
            loss = functional.binary_cross_entropy_with_logits(logits, wanted[rows])
            optimiser.zero_grad()
            torch.autograd.backward(loss)
            optimiser.step()
            schedule.step()


@torch.no_grad()
def _fit_temperature(router: SparseIntentRouter, examples: _Examples) -> None:
    """The temperature of least cross-entropy on held-out prompts, of a grid of factors of 2^(1/4).

    Platt's targets, (n+ + 1)/(n+ + 2) and 1/(n- + 2): classes that do not overlap would otherwise ask for certainty.
    """
    logits = router(examples.features).logits
    hot = _one_hot(examples.targets, logits.shape[1])
    positive, negative = hot.sum(dim=0), (1 - hot).sum(dim=0)
    wanted = hot * (positive + 1) / (positive + 2) + (1 - hot) / (negative + 2)
    grid = [2.0 ** (i / 4) for i in range(-16, 17)]
    losses = [float(functional.binary_cross_entropy_with_logits(logits / t, wanted)) for t in grid]
    router.temperature.fill_(grid[int(np.argmin(losses))])


@torch.no_grad()
def _fit_floors(router: SparseIntentRouter, examples: _Examples, slack: float) -> None:
    """Per class, from its own held-out prompts. Less than even odds (a logit below 0) is never enough."""
    seen = router(examples.features)
    for i, name in enumerate(router.arch.classes):
        own = examples.targets == i
        if not own.any():
            raise DataError(f'router: no held-out prompt is for "{name}"', "its adapter loses every comparison")
        router.logit_floor[i] = _floor(seen.logits[own, i], slack).clamp(min=0.0)
        router.density_floor[i] = _floor(seen.density[own, i], slack)


def _floor(values: torch.Tensor, slack: float) -> torch.Tensor:
    middle = values.median()
    return middle - slack * (middle - values.min())
