"""How the score depends on the conditions of the question, and what the capability is worth without its adapter.

Students collapse off the conditions that they were taught in, and a mean over all samples does not show it: so the score is
also told by length of the prompt and by stratum, and answers are compared with those given one at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from nexus_core.gate.claims import Claim
from nexus_core.gate.job import Alone, Said
from nexus_core.gate.verdict import PASS, judge

QUARTERS = 4
LATENCY = "latency"  # the one part of a report that differs from run to run


def conditions(claim: Claim, scores: Sequence[float], said: Said, scored_alone: Sequence[float]) -> dict[str, Any]:
    """One capability's entry in the report."""
    lengths = [len(sample.prompt) for sample in claim.samples]
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    bounds = [round(len(order) * quarter / QUARTERS) for quarter in range(QUARTERS + 1)]
    quarters = [order[start:end] for start, end in pairwise(bounds) if end > start]
    strata: dict[str, list[int]] = {}
    for index, sample in enumerate(claim.samples):
        strata.setdefault(sample.stratum or "all", []).append(index)
    return {
        "length": [
            {"characters": [lengths[part[0]], lengths[part[-1]]], **_part(claim, scores, part)} for part in quarters
        ],
        "stratum": {name: _part(claim, scores, part) for name, part in sorted(strata.items())},
        "batch": _batch(claim, scores, said, scored_alone),
        "truncated": said.truncated,
        LATENCY: latency(said.alone),
    }


def equal_share(said: Said) -> float:
    """Of the answers that were also asked for alone, how many are the same in a batch."""
    same = sum(said.outputs[one.index] == one.output for one in said.alone)
    return same / len(said.alone) if said.alone else math.nan


def _part(claim: Claim, scores: Sequence[float], part: Sequence[int]) -> dict[str, Any]:
    samples = [claim.samples[i] for i in part]
    student = claim.metric.aggregate(samples, [scores[i] for i in part])
    teacher = claim.metric.aggregate(samples, [claim.teacher_scores[i] for i in part])
    return {"n": len(part), "student_score": student, "teacher_score": teacher}


def _batch(claim: Claim, scores: Sequence[float], said: Said, scored_alone: Sequence[float]) -> dict[str, Any]:
    part = [one.index for one in said.alone]
    samples = [claim.samples[i] for i in part]
    return {
        "size": claim.metric.options.batch_size,
        "n": len(part),
        "equal": sum(said.outputs[one.index] == one.output for one in said.alone),
        "score": claim.metric.aggregate(samples, [scores[i] for i in part]),
        "score_alone": claim.metric.aggregate(samples, list(scored_alone)),
    }


def latency(alone: Sequence[Alone]) -> dict[str, Any]:
    """Milliseconds per token of answers that were asked for one at a time, the reading of the prompt included."""
    import numpy as np

    per_token = [1000 * one.seconds / one.tokens for one in alone if one.tokens]
    if not per_token:
        return {"n": 0}
    p10, middle, p90 = (round(float(value), 3) for value in np.percentile(per_token, [10, 50, 90]))
    return {"n": len(per_token), "ms_per_token": middle, "p10": p10, "p90": p90}


# --- controls -----------------------------------------------------------------------------------------------------


def controls(claim: Claim, scores: Sequence[float], backbone: Said, run: Path) -> dict[str, Any]:
    """The plain backbone and outputs that need no model, on the same samples; and the study's student without a teacher."""
    n = len(backbone.outputs)
    samples, metric = claim.samples[:n], claim.metric
    plain = float(metric.aggregate(samples, metric.score_all(samples, backbone.outputs)))
    teacher = float(metric.aggregate(samples, list(claim.teacher_scores[:n])))
    return {
        "backbone": {
            "n": n,
            "score": plain,
            "student_score": float(metric.aggregate(samples, list(scores[:n]))),
            "teacher_score": teacher,
            "keeps_contract": judge(claim.contract, teacher, plain).verdict == PASS,
        },
        "baselines": _baselines(claim),
        "no_teacher": no_teacher(run, claim.capability),
    }


def _baselines(claim: Claim) -> dict[str, float]:
    n, metric = len(claim.samples), claim.metric
    found = {}
    for name, outputs in metric.baselines(claim.request).items():
        scores = metric.score_all(claim.samples, list(outputs)[:n])
        found[name] = float(metric.aggregate(claim.samples, scores))
    return found


def no_teacher(run: Path, capability: str) -> dict[str, Any] | None:
    """The study's arm that was taught without any teacher: its scores by seed. None where the run holds no study."""
    found: dict[str, Mapping[str, Any]] = {}
    for path in sorted(run.glob("study/no_teacher-seed*/summary.json")):
        measured = json.loads(path.read_bytes()).get("capabilities", {}).get(capability)
        if measured:
            found[path.parent.name.rpartition("-seed")[2]] = {"score": measured["score"], "n": measured["n"]}
    return {"seeds": found} if found else None
