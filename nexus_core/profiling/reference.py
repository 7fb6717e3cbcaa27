"""The teacher's own scores on the verify split: what the gate compares a student with, sample by sample.

Measured in stage 2, while the teacher is at hand: at the gate it cannot be reached. Kept are scores and one digest of
the samples, no question and no answer; the digest says whether the gate asks what the teacher was asked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from nexus_core.errors import UsageError
from nexus_core.evaluation import Progress, draw, evaluate
from nexus_core.profiling.artifacts import ArtifactError, ProfileStore
from nexus_core.profiling.model import Reference
from nexus_core.types import CapabilityMetric, Contract, Sample, SampleRequest, Split, Teacher

__all__ = ["Reference", "gate_request", "is_current", "measure_reference", "read_reference", "sample_digest"]

PACK = "pack"  # the benchmark that is the capability pack's own verify split


def gate_request(contract: Contract, n: int, seed: int) -> SampleRequest:
    """What the gate asks: samples of the benchmark that the contract names, whatever data a teacher was profiled on."""
    return SampleRequest(Split.VERIFY, n, seed, None if contract.benchmark == PACK else contract.benchmark)


def sample_digest(samples: Iterable[Sample]) -> str:
    """SHA-256 over the digests of the samples, in their order."""
    return hashlib.sha256("\n".join(sample.digest for sample in samples).encode()).hexdigest()


def measure_reference(
    teacher: Teacher,
    metric: CapabilityMetric,
    request: SampleRequest,
    weights_hash: str,
    progress: Progress = lambda done, total: None,
) -> Reference:
    """Ask the teacher the samples of `request`, under the capability's own options, and score its answers."""
    if request.split is not Split.VERIFY:
        raise UsageError(f"the gate asks the verify split, not {request.split}", "measure the reference on that")
    name = teacher.source.teacher_id or teacher.source.path.name
    found, answers = evaluate(name, teacher, metric, request, progress=progress)
    return Reference(
        teacher=name,
        weights_hash=weights_hash,
        capability=metric.name,
        metric=metric.metric,
        direction=metric.direction,
        data=request.data,
        seed=request.seed,
        n=found.n,
        score=float(found.score),
        scores=tuple(float(score) for score in answers.scores),
        sample_digest_sha256=sample_digest(answers.samples),
    )


def is_current(reference: Reference, metric: CapabilityMetric, request: SampleRequest) -> bool:
    """Whether this is what measuring would score now: the same metric, on the very samples that would be drawn."""
    same = (reference.metric, reference.seed, reference.data) == (metric.metric, request.seed, request.data)
    return same and sample_digest(draw(metric, request)) == reference.sample_digest_sha256


def read_reference(path: Path) -> Reference:
    """The scores at `RUN/niwt_stage2_output/profiles/<teacher>/<capability>/verify_scores.json`.

    Read through the store's manifest, so that a file which was changed after it was written is refused.
    """
    capability, teacher = path.parent.name, path.parent.parent.name
    store = ProfileStore(path.parents[3])
    reference = store.reference(teacher, capability)
    if reference is None:
        raise ArtifactError(
            f"{path} is not there: {teacher} was profiled on {capability} and not scored on the verify split",
            f"nexus profile --teacher {teacher} --capability {capability} --run {store.root.parent} --reference-only",
        )
    return reference
