"""Controls that a card must beat: answering by memory, and answering without a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nexus_core.types import CapabilityMetric, SampleRequest, Split


def memorisation_control(metric: CapabilityMetric, request: SampleRequest, train_samples: int) -> dict[str, Any]:
    """Score of a machine that only remembers: each prompt gets the target of the most similar train prompt.

    Similarity is the cosine of TF-IDF vectors of words and numbers (1- and 2-grams), over part of the train split.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    train = list(metric.samples(SampleRequest(Split.TRAIN, n=train_samples, seed=request.seed)))
    asked = list(metric.samples(request))
    vectorizer = TfidfVectorizer(token_pattern=r"[A-Za-z_]+|\d+|[^\sA-Za-z\d]", ngram_range=(1, 2), sublinear_tf=True)
    memory = vectorizer.fit_transform(s.prompt for s in train)
    nearest = (vectorizer.transform(s.prompt for s in asked) @ memory.T).argmax(axis=1)
    remembered = [train[int(i)].target for i in nearest.A1]
    scores = metric.score_all(asked, remembered)
    return {
        "method": "answer of the nearest train prompt (TF-IDF)",
        "train_prompts": len(train),
        "n": len(asked),
        "value": round(metric.aggregate(asked, scores), 4),
        **name_alone([s.target for s in asked], remembered),
    }


def name_alone(targets: Sequence[str], remembered: Sequence[str]) -> dict[str, float]:
    """Where answers are calls: how often the remembered call names the right tool, whatever its arguments."""
    wanted, found = [_tool(text) for text in targets], [_tool(text) for text in remembered]
    if None in wanted:
        return {}
    return {"tool_name_alone": round(sum(a == b for a, b in zip(wanted, found, strict=True)) / len(wanted), 4)}


def _tool(text: str) -> str | None:
    try:
        call = json.loads(text)
    except ValueError:
        return None
    return call.get("name") if isinstance(call, dict) else None


def baseline_scores(metric: CapabilityMetric, request: SampleRequest) -> dict[str, Any]:
    """Scores of the pack's own baselines on the same samples."""
    samples = list(metric.samples(request))
    return {
        name: {"value": round(metric.aggregate(samples, metric.score_all(samples, outputs)), 4)}
        for name, outputs in metric.baselines(request).items()
    }
