"""What profiling measured of one teacher on one capability, as frozen values. `artifacts` stores them, `plan` reads them.

A drop is positive when the metric became worse, in the metric's own unit, whichever way the metric is better.
`low` and `high` are the ends of its confidence interval.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from nexus_core.profiling.pca import PCA, Array
from nexus_core.types import Direction


class ComponentClass(StrEnum):
    """What the loss of a component costs the teacher, by the thresholds of the capability's row in registry.yaml."""

    NON_NEGOTIABLE = "non_negotiable"
    RECOVERABLE = "recoverable"
    DISCARDABLE = "discardable"


@dataclass(frozen=True, slots=True)
class ComponentResult:
    """Causal test of principal component `index` (0 is the strongest of the block's spectrum), over `n` samples.

    `undecided`: the interval supported no class, and `cls` is the strongest one that it does not exclude. `group` names
    the set of components that were projected out together when this one was not tested alone; the drop is that set's.
    """

    index: int
    cls: ComponentClass
    drop: float
    low: float
    high: float
    n: int
    variance_fraction: float
    group: str | None = None
    undecided: bool = False


@dataclass(frozen=True, slots=True)
class HeadResult:
    """Drop of silencing one attention head of a block."""

    block: str
    head: int
    drop: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class PerturbationResult:
    """Score and drop under one perturbation; `block` is None when the prompt or the decoding was perturbed."""

    kind: str
    magnitude: float | str
    block: str | None
    score: float
    drop: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class ReconstructionResult:
    """Metric with the output of `block` (None: of all chosen blocks at once) replaced by `mean + coords @ basis`.

    `anchor_error` is the relative error of that replacement, |x - x'|^2 / |x - mean|^2 over the verification samples:
    what losing everything outside the kept directions amounts to. `low` and `high` are both 0 where no interval was
    measured. `undecided`: the drop itself passes or fails, but its interval allows both.
    """

    block: str | None
    k: int
    score: float
    drop: float
    max_drop: float
    anchor_error: float
    n: int
    low: float = 0.0
    high: float = 0.0

    @property
    def passed(self) -> bool:
        return self.drop < self.max_drop

    @property
    def has_interval(self) -> bool:
        return bool(self.low or self.high)

    @property
    def undecided(self) -> bool:
        return self.has_interval and self.low < self.max_drop <= self.high


@dataclass(frozen=True, slots=True)
class VerifyOutput:
    """The teacher's own answer to one verification sample; `digest` is `Sample.digest`, `output` any JSON value."""

    sample: str
    digest: str
    output: Any
    score: float


@dataclass(frozen=True, slots=True, eq=False)
class BlockProfile:
    """One chosen block. `index` is its position in `Teacher.blocks`, the L of `layer_<L>_*`.

    `pca` holds the protected components, and `component_indices` the place of each in the block's spectrum;
    `coords` are their coordinates, one row per pooled sample: the profile samples, then those of `verify_outputs`. No
    protected component is a result too: then `pca.k` is 0, and `note` says what was tried. `tolerance` is the largest
    noise inside the protected space, |e|^2 / |x - mean|^2, at which the metric held; 0: none did; None: not measured.
    """

    block: str
    index: int
    dim: int
    pooling: str
    positions: str
    pca: PCA
    component_indices: tuple[int, ...]
    coords: Array  # (n, k)
    explained_variance: tuple[float, ...]  # share of the total, of every component that was computed
    components: tuple[ComponentResult, ...]
    note: str = ""
    tolerance: float | None = None

    def of_class(self, cls: ComponentClass) -> tuple[ComponentResult, ...]:
        """The tested components of one class, in the order of the spectrum."""
        return tuple(sorted((c for c in self.components if c.cls is cls), key=lambda c: c.index))

    @property
    def non_negotiable(self) -> tuple[ComponentResult, ...]:
        """The proven ones, and those that are so by caution: their interval excluded no lesser class."""
        return self.of_class(ComponentClass.NON_NEGOTIABLE)

    @property
    def proven(self) -> tuple[ComponentResult, ...]:
        """The non-negotiable components whose interval decided it."""
        return tuple(component for component in self.non_negotiable if not component.undecided)


@dataclass(frozen=True, slots=True, eq=False)
class CapabilityProfile:
    """Everything that stage 2 keeps of one teacher and one capability.

    `weights_hash` identifies the teacher's weights: artifacts of other weights under the same name are refused.
    `pilot` is the drop of bypassing each block; `tokenizer` what its tokens depend on (class, size of the vocabulary, hash).
    """

    teacher: str
    weights_hash: str
    capability: str
    metric: str
    direction: Direction
    baseline_score: float
    n: int
    seed: int
    seconds: float
    blocks: tuple[BlockProfile, ...]
    heads: tuple[HeadResult, ...] = ()
    perturbations: tuple[PerturbationResult, ...] = ()
    pilot: Mapping[str, float] = field(default_factory=dict)
    verify_outputs: tuple[VerifyOutput, ...] = ()
    reconstruction: tuple[ReconstructionResult, ...] = ()
    tokenizer: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reference:
    """What the teacher scores on the verify split: what a student of its capability is compared with, sample by sample.

    `score` is the metric's own aggregate of `scores`, which stand in the order of the samples as drawn. `data` is None for
    the pack's own samples; `sample_digest_sha256` is `sample_digest` of them. Nothing that was asked or answered is here.
    """

    teacher: str
    weights_hash: str
    capability: str
    metric: str
    direction: Direction
    data: str | None
    seed: int
    n: int
    score: float
    scores: tuple[float, ...]
    sample_digest_sha256: str
