"""Greedy answers of a checkpoint and their score, with a Wilson interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.types import CapabilityMetric, Sample, SampleRequest, Split


@dataclass(frozen=True, slots=True)
class Score:
    """A mean over `n` samples and its 95 % interval."""

    score: float
    n: int
    ci95: tuple[float, float]


def wilson(mean: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a proportion; unlike a bootstrap it does not collapse to a point at 0 or 1."""
    centre, spread = mean + z * z / (2 * n), z * math.sqrt(mean * (1 - mean) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return round(max(0.0, (centre - spread) / scale), 4), round(min(1.0, (centre + spread) / scale), 4)


def answers(model: Any, tokenizer: Any, samples: Sequence[Sample], options: Any) -> list[str]:
    """Greedy answers in the order of `samples`; batches are made of prompts of similar length."""
    import torch

    order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
    outputs = [""] * len(samples)
    for start in range(0, len(order), options.batch_size):
        chunk = order[start : start + options.batch_size]
        texts = [
            tokenizer.apply_chat_template(
                [{"role": "user", "content": samples[i].prompt}], add_generation_prompt=True, tokenize=False
            )
            for i in chunk
        ]
        batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False)
        batch = {k: v.to(model.device) for k, v in batch.items() if k in ("input_ids", "attention_mask")}
        with torch.inference_mode():
            ids = model.generate(
                **batch,
                max_new_tokens=options.max_new_tokens,
                do_sample=False,
                pad_token_id=tokenizer.pad_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        for i, row in zip(chunk, ids[:, batch["input_ids"].shape[1] :], strict=True):
            outputs[i] = tokenizer.decode(row, skip_special_tokens=True)
    return outputs


def score_model(model: Any, tokenizer: Any, metric: CapabilityMetric, request: SampleRequest) -> Score:
    """Mean score of a model that is in memory."""
    samples = list(metric.samples(request))
    scores = metric.score_all(samples, answers(model, tokenizer, samples, metric.options))
    mean = metric.aggregate(samples, scores)
    return Score(round(mean, 4), len(samples), wilson(mean, len(samples)))


def score_checkpoint(path: Path, metric: CapabilityMetric, n: int, split: Split = Split.VERIFY) -> Score:
    """Mean score of a saved checkpoint on held-out samples, loaded the way that a user loads it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, local_files_only=True).eval()
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    return score_model(model, tokenizer, metric, SampleRequest(split, n=n))
