"""What is claimed of each capability, and by what it is measured: contract, samples, and the teacher's scores on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nexus_core.errors import DataError
from nexus_core.evaluation import draw
from nexus_core.plugins import Plugins
from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts.layout import SCORES, profile_folder
from nexus_core.profiling.reference import Reference, gate_request, read_reference, sample_digest
from nexus_core.registry import Registry
from nexus_core.student.arch import AdapterArch
from nexus_core.types import CapabilityMetric, Contract, Sample, SampleRequest


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """One capability of the subject. `teacher_scores` are on `samples`, one for each; `weights` identifies the teacher."""

    capability: str
    teacher: str
    weights: str
    contract: Contract
    metric: CapabilityMetric
    samples: Sequence[Sample]
    teacher_scores: Sequence[float]
    request: SampleRequest


@dataclass(frozen=True, slots=True, eq=False)
class Claims:
    """Reads the claims of a run: contracts from the registry, scores from stage 2, samples from the packs."""

    run: Path
    registry: Registry
    plugins: Plugins
    samples: int

    def read(self, adapter: AdapterArch) -> Claim:
        """The claim of one adapter, or an error that says what is missing and what measures it."""
        capability, teacher = adapter.capability, adapter.teacher
        contract = self.registry.contract(capability, teacher)
        metric = self.plugins.capability_metric(capability)
        _check_metric(metric, contract)
        path = self.run / OUTPUT / profile_folder(teacher, capability) / SCORES
        reference = read_reference(path)
        again = f"nexus profile --teacher {teacher} --capability {capability} --run {self.run} --reference-only"
        request = gate_request(contract, reference.n, reference.seed)
        samples = draw(metric, request)
        _check_reference(reference, contract, request.data, again)
        if sample_digest(samples) != reference.sample_digest_sha256:
            raise DataError("the teacher was asked other samples than the student would be", again)
        self._check_number(metric, request, reference, again)
        n = min(self.samples, reference.n)
        return Claim(
            capability,
            teacher,
            reference.weights_hash,
            contract,
            metric,
            samples[:n],
            reference.scores[:n],
            request,
        )

    def _check_number(self, metric: CapabilityMetric, request: SampleRequest, reference: Reference, again: str) -> None:
        """A benchmark may have fewer samples than the registry asks for; a teacher may not have been asked fewer of them."""
        if reference.n >= self.samples:
            return
        if len(draw(metric, replace(request, n=self.samples))) > reference.n:
            raise DataError(f"its teacher was scored on {reference.n} samples, and the gate asks {self.samples}", again)


def _check_metric(metric: CapabilityMetric, contract: Contract) -> None:
    for what in ("metric", "direction"):
        measured, promised = getattr(metric, what), getattr(contract, what)
        if measured != promised:
            raise DataError(
                f"the contract's {what} is {promised}, and the capability's pack measures {measured}",
                "correct the row in registry.yaml, or install the pack that measures it",
            )


def _check_reference(reference: Reference, contract: Contract, data: str | None, again: str) -> None:
    for what, promised in (("metric", contract.metric), ("direction", contract.direction), ("data", data)):
        if (measured := getattr(reference, what)) != promised:
            raise DataError(
                f"the teacher's scores are of the {what} {measured}, and the contract's is {promised}", again
            )
    if len(reference.scores) != reference.n or not all(map(math.isfinite, reference.scores)):
        raise DataError("a score of the teacher is missing, or no number", again)
