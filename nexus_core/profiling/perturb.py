"""Perturbations of what a teacher is asked, of how it decodes, and of a block's weights; each with its magnitude.

The prompt's meaning is kept where the name says so (filler, paraphrase) and damaged in a measured dose elsewhere. Every
perturbation is drawn from the seed and the sample, so that a rerun perturbs alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from nexus_core.profiling.interventions import changed_weights, low_rank, with_noise
from nexus_core.profiling.model import PerturbationResult
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site
from nexus_core.stats import paired_drop
from nexus_core.types import GenerateOptions, Sample

TOKEN_DROPOUT = (0.1, 0.2)
TYPO_RATE = 0.05
TEMPERATURES = ((0.7, 1.0), (1.0, 0.9))  # (temperature, top_p): the usual sampling settings
NOISE_SCALES = (0.01, 0.05)  # of each matrix's own standard deviation
RANK_FRACTIONS = (0.5, 0.25)

FILLERS = ("Well, let me see. {}", "Please help me with this one. {}", "{} Thank you in advance.")
# Same meaning, other words. Applied in order; a prompt that none of them touches is counted as unchanged.
REWRITES = (
    ("How many", "What number of"),
    ("how many", "what number of"),
    ("Write a function", "Implement a function"),
    ("What is", "Tell me"),
    ("what is", "tell me"),
    (" and then ", ", after that "),
    (" gives ", " hands "),
    (" gets ", " receives "),
    (" buys ", " purchases "),
    ("Find ", "Determine "),
    ("Return ", "Give back "),
    ("return ", "give back "),
)

Change = Callable[[str, random.Random], str]


class Label(NamedTuple):
    """What was done, how strongly, and to which block (None: to the prompt or the decoding)."""

    kind: str
    magnitude: float | str
    block: str | None = None


@dataclass(frozen=True, slots=True)
class PromptChange:
    """A named way to change a prompt."""

    kind: str
    magnitude: float | str
    change: Change


def prompt_changes(tokenizer: Any) -> list[PromptChange]:
    """All perturbations of the prompt; token dropout needs the teacher's own tokenizer."""
    changes = [PromptChange("token_dropout", rate, _dropout(tokenizer, rate)) for rate in TOKEN_DROPOUT]
    changes.append(PromptChange("typo", TYPO_RATE, _typos))
    changes.append(PromptChange("filler", "one sentence", lambda text, rng: rng.choice(FILLERS).format(text)))
    changes.append(PromptChange("paraphrase", "rewrite rules", lambda text, rng: paraphrase(text)))
    return changes


def paraphrase(text: str) -> str:
    """The same question in other words, as far as the rules reach."""
    for old, new in REWRITES:
        text = text.replace(old, new)
    return text


def _dropout(tokenizer: Any, rate: float) -> Change:
    def change(text: str, rng: random.Random) -> str:
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
        kept = [token for token in tokens if rng.random() >= rate] or tokens[-1:]
        decoded: str = tokenizer.decode(kept)
        return decoded

    return change


def _typos(text: str, rng: random.Random) -> str:
    """Swap, delete or replace one letter in twenty."""
    letters = list(text)
    i = 0
    while i < len(letters):
        if letters[i].isalpha() and rng.random() < TYPO_RATE:
            kind = rng.choice(("swap", "delete", "replace"))
            if kind == "swap" and i + 1 < len(letters):
                letters[i], letters[i + 1] = letters[i + 1], letters[i]
                i += 1
            elif kind == "delete":
                letters[i] = ""
            else:
                letters[i] = rng.choice("abcdefghijklmnopqrstuvwxyz")
        i += 1
    return "".join(letters)


def perturbed_prompts(scorer: Scorer, indices: Sequence[int], seed: int) -> Iterator[PerturbationResult]:
    """Every perturbation of the prompt, with full generations (nothing of the baseline's answer can be reused)."""
    samples = [scorer.samples[i] for i in indices]
    for change in prompt_changes(scorer.teacher.processor):
        asked = [
            replace(sample, prompt=change.change(sample.prompt, random.Random(f"{seed}-{change.kind}-{sample.digest}")))
            for sample in samples
        ]
        touched = sum(a.prompt != b.prompt for a, b in zip(asked, samples, strict=True)) / len(samples)
        magnitude = change.magnitude if change.kind != "paraphrase" else f"{touched:.0%} of prompts reworded"
        scores = _ask(scorer, asked, samples, scorer.metric.options)
        yield _result(scorer, indices, Label(change.kind, magnitude), scores, seed)


def perturbed_decoding(scorer: Scorer, indices: Sequence[int], seed: int) -> Iterator[PerturbationResult]:
    """Sampling instead of greedy decoding."""
    samples = [scorer.samples[i] for i in indices]
    for temperature, top_p in TEMPERATURES:
        options = replace(scorer.metric.options, temperature=temperature, top_p=top_p, seed=seed)
        scores = _ask(scorer, samples, samples, options)
        label = Label("decoding", f"temperature {temperature:g}, top_p {top_p:g}")
        yield _result(scorer, indices, label, scores, seed)


def perturbed_weights(scorer: Scorer, site: Site, indices: Sequence[int], seed: int) -> Iterator[PerturbationResult]:
    """Noise on a block's matrices, and their low-rank approximation. The weights are restored bit for bit."""
    changes = [("weight_noise", scale, with_noise(scale, seed)) for scale in NOISE_SCALES]
    changes += [("low_rank", fraction, low_rank(fraction)) for fraction in RANK_FRACTIONS]
    for kind, magnitude, change in changes:
        with changed_weights(site.module, change):
            scores = scorer.scores([None], indices)[0]
        yield _result(scorer, indices, Label(kind, magnitude, site.name), scores, seed)


def _ask(scorer: Scorer, asked: Sequence[Sample], samples: Sequence[Sample], options: GenerateOptions) -> np.ndarray:
    """Scores of changed questions against the unchanged samples' references."""
    scorer.heartbeat()
    outputs = scorer.teacher.generate(asked, options)
    scorer.heartbeat()
    return np.asarray(scorer.metric.score_all(samples, outputs), dtype=np.float64)


def _result(scorer: Scorer, indices: Sequence[int], label: Label, scores: np.ndarray, seed: int) -> PerturbationResult:
    samples = [scorer.samples[i] for i in indices]
    drop = paired_drop(scorer.metric, samples, scorer.baseline.scores[list(indices)], scores, seed)
    score = scorer.value(scores, indices)
    return PerturbationResult(*label, score=score, drop=drop.value, low=drop.low, high=drop.high, n=drop.n)
