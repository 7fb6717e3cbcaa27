"""What is measured of each student that comes out of a study, in the same way whatever it was taught."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nexus_core.evaluation import Answerer, Answers, Evaluation, evaluate
from nexus_core.types import CapabilityMetric, GenerateOptions, Sample, SampleRequest, Split

if TYPE_CHECKING:
    from nexus_core.distill.material import Material
    from nexus_core.distill.settings import LossSettings
    from nexus_core.student.files import Student

SEED = 42  # of the verify samples: all students and teachers answer the same ones
ROWS = 32  # of a batch of held-out rows


def request(samples: int) -> SampleRequest:
    """The verify samples of a study. Nothing in it is chosen by them."""
    return SampleRequest(Split.VERIFY, samples, SEED)


def score(answerer: Answerer, metric: CapabilityMetric, samples: int) -> dict[str, Any]:
    """Score, interval, and what each answer scored."""
    found, answers = evaluate("study", answerer, metric, request(samples))
    return _row(found, answers)


def _row(found: Evaluation, answers: Answers) -> dict[str, Any]:
    low, high = found.ci95
    scores = [float(value) for value in answers.scores]
    return {"score": found.score, "n": found.n, "low": low, "high": high, "scores": scores}


def score_student(student: Student, material: Material, loss: LossSettings, samples: int) -> dict[str, Any]:
    """The same with its speed and its anchor error."""
    timed = _Timed(student, material.capability)
    with student.model.eval().using(material.capability, allow_isolated=True):  # chosen once, not for each batch
        found = score(timed, material.metric, samples)
    speed = timed.tokens / timed.seconds if timed.seconds else 0.0
    return {**found, "tokens_per_second": speed, "anchor_error": anchor_error(student, material, loss)}


class _Timed:
    """Counts the tokens of its student's answers, and the time that they take."""

    def __init__(self, student: Student, capability: str) -> None:
        from nexus_core.student.answer import StudentAnswerer

        self._answerer = StudentAnswerer(student.model, student.tokenizer, capability, allow_isolated=True)
        self.tokens, self.seconds = 0, 0.0

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        started = time.perf_counter()
        tokens = self._answerer.generate_tokens(samples, options)
        self.seconds += time.perf_counter() - started
        self.tokens += sum(map(len, tokens))
        return self._answerer.decode_tokens(tokens, options)


def anchor_error(student: Student, material: Material, loss: LossSettings) -> float | None:
    """Weighted squared distance between the adapter's coordinates and its teacher's on rows that no training sees.

    In whitened units, where 1 is what always saying the teacher's mean would get. `material` has the spaces, also for a
    student that was not held to them; None where there are none, or no rows were kept apart.
    """
    import torch

    from nexus_core.distill.anchoring import ActivationAnchoringLoss
    from nexus_core.distill.batches import collate
    from nexus_core.distill.objective import anchor_settings

    if not any(space.k for space in material.spaces):
        return None
    model, pad = student.model.eval(), int(student.tokenizer.pad_token_id or 0)
    measure = ActivationAnchoringLoss(material.spaces, anchor_settings(loss, 0)).to(model.device)
    rows = sorted(material.held, key=len)
    total, positions = 0.0, 0
    with torch.no_grad(), model.using(material.capability, allow_isolated=True), model.recording() as seen:
        for start in range(0, len(rows), ROWS):
            batch = collate(rows[start : start + ROWS], pad).to(model.device)
            model.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            blocks = measure({block: z[batch.answer] for block, z in seen.items()}, batch, 0).blocks
            if blocks:
                total += float(torch.stack(list(blocks.values())).mean()) * batch.positions
                positions += batch.positions
    return total / positions if positions else None
