"""Frozen values that cross the seam between the core and its plugins.

Nothing heavy is imported here: torch appears in annotations only. A field may be added to any of these classes
(with a default) without breaking a plugin; a field is never removed or renamed within one `NEXUS_API`.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn


class Kind(StrEnum):
    """The three kinds of plugin; the entry-point group of a kind is `nexus.<kind>s` (`nexus.capabilities`)."""

    TEACHER = "teacher"
    CAPABILITY = "capability"
    TOWER = "tower"

    @property
    def group(self) -> str:
        return {"teacher": "nexus.teachers", "capability": "nexus.capabilities", "tower": "nexus.towers"}[self.value]


class Direction(StrEnum):
    """Which way a metric is better."""

    HIGHER = "higher"
    LOWER = "lower"


class Split(StrEnum):
    """Splits of a capability's samples. They never overlap; nothing is ever tuned on `VERIFY`."""

    TRAIN = "train"
    PROFILE = "profile"
    VERIFY = "verify"


class Category(StrEnum):
    """What a model directory can be."""

    TRANSFORMERS = "transformers"
    VISION_ENCODER = "vision_encoder"
    ASR = "asr"
    TTS = "tts"
    AUDIO_CODEC = "audio_codec"
    MULTIMODAL = "multimodal"
    DIFFUSERS = "diffusers"
    SAE = "sae"


# --- teachers ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a checkpoint lies: a local directory, or one file such as a GGUF. `teacher_id` is its registry row, if any."""

    path: Path
    teacher_id: str = ""


@dataclass(frozen=True, slots=True)
class Detection:
    """One plugin's claim on a `ModelSource`. The unique highest `confidence` (0 to 1) wins; a tie is an error."""

    category: Category
    model_type: str
    confidence: float
    evidence: str


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """How to load a teacher. `quantization` is None, "nf4" or "int8"; `dtype` is a torch dtype's name, or "auto"."""

    device: str = "cpu"
    dtype: str = "float32"
    quantization: str | None = None
    local_files_only: bool = True


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """How a teacher or student answers. Greedy unless `temperature` is above 0; `stop` strings end an answer early."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    batch_size: int = 32
    seed: int = 42


class Teacher(ABC):
    """A frozen checkpoint: an instrument of measurement. Never present at inference.

    `nexus_core.hf.HFTeacher` implements this for anything that transformers can instantiate.
    """

    source: ModelSource
    detection: Detection
    plugin: str = ""  # name of the plugin that loaded it; set by the core

    @property
    @abstractmethod
    def model(self) -> nn.Module:
        """The frozen module, in eval mode, without gradients."""

    @property
    @abstractmethod
    def processor(self) -> Any:
        """The tokenizer or processor that belongs to this checkpoint and to no other."""

    @property
    @abstractmethod
    def blocks(self) -> Mapping[str, nn.Module]:
        """The repeated blocks in forward order, by dotted module name: the capture points of profiling."""

    @abstractmethod
    def encode(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        """Model inputs for a batch of samples, padded, with their mask."""

    @abstractmethod
    def forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        """One forward pass without gradients over what `encode` returned."""

    @abstractmethod
    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[Any]:
        """One answer per sample, in order: text for text models, an array for audio and so on."""


@dataclass(frozen=True, slots=True)
class PilotScores:
    """Metric drop (positive = worse) of bypassing each block in turn, on `n` pilot samples, beside the baseline score."""

    drops: Mapping[str, float]
    baseline: float
    n: int


# --- capabilities -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Sample:
    """One item of a capability: what is asked, and what a right answer is. `inputs` carries anything that is not text."""

    id: str
    prompt: str
    target: str
    stratum: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Hash of what is asked: two splits are disjoint when their digests are. `id`, `target` and `meta` do not count."""
        asked = json.dumps([self.prompt, {k: str(v) for k, v in sorted(self.inputs.items())}], ensure_ascii=False)
        return hashlib.sha256(asked.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Which samples are wanted. `n=None` means all (or endlessly many, for a generator's train split).

    `data` is None for the pack's own samples, or a path, or the name of a benchmark that the pack can bind to.
    """

    split: Split
    n: int | None = None
    seed: int = 42
    data: str | None = None


class CapabilityMetric(ABC):
    """Everything that measures one capability. Thresholds are not here: they live in registry.yaml."""

    name: str
    metric: str
    direction: Direction
    options: GenerateOptions = GenerateOptions()
    drill: str | None = None  # `data` whose samples teach more per token than those that are scored (see `Collector`)
    pooled: bool = (
        False  # a property of the whole answer (who speaks) rather than of its tokens; profiling averages then
    )

    @abstractmethod
    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        """Samples of one split, in an order that depends on `request.seed` alone."""

    @abstractmethod
    def score(self, sample: Sample, output: Any) -> float:
        """Score of one output. The metric's value is the mean over samples unless `aggregate` says otherwise."""

    def score_all(self, samples: Sequence[Sample], outputs: Sequence[Any]) -> list[float]:
        """Scores of a batch; a pack overrides it where scoring together is faster (a pool of sandboxes)."""
        return [self.score(sample, output) for sample, output in zip(samples, outputs, strict=True)]

    def aggregate(self, samples: Sequence[Sample], scores: Sequence[float]) -> float:
        """The metric's value over many samples."""
        return sum(scores) / len(scores) if scores else float("nan")

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[Any]]:
        """Outputs that need no model, by name (`random`, `majority`), one per sample of `request`."""
        return {}


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Drops, in the metric's own unit, that class a component: at or above the first number it is that class."""

    non_negotiable: float
    recoverable: float


@dataclass(frozen=True, slots=True)
class Contract:
    """What the student must keep of one capability. Every number comes from registry.yaml."""

    capability: str
    benchmark: str
    metric: str
    direction: Direction
    retain_fraction: float | None
    minimum: float | None
    tier: int
    rank_cap: int
    thresholds: Thresholds
    relative_to: str = "teacher"


# --- towers -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AdapterPlan:
    """One adapter site as the architect wrote it: `rank` dimensions of protected subspace after block `block`."""

    capability: str
    tower: str
    hidden_size: int
    rank: int
    block: int = 0
    kind: str = "bottleneck"
    seed: int = 42


@dataclass(frozen=True, slots=True)
class DecodeOptions:
    """What `decode` needs beside the output: the student's tokenizer or processor, tool schemas, a sample rate."""

    processor: Any = None
    tools: tuple[Mapping[str, Any], ...] = ()
    sample_rate: int | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that was checked against the tool's JSON Schema."""

    name: str
    arguments: Mapping[str, Any]
