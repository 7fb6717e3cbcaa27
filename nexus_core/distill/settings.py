"""How a student is taught, as frozen values. presets.yaml holds the numbers; a key that is missing or unknown is named."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from nexus_core.errors import DataError, UsageError
from nexus_core.strict import read_strict
from nexus_core.suggest import did_you_mean

PRESETS = Path(__file__).with_name("presets.yaml")
_COMPARE = f"compare it with {PRESETS.name}"
PRECISIONS = ("auto", "bf16", "fp32")
OPTIMIZERS = ("auto", "adamw", "adamw8bit")


@dataclass(frozen=True, slots=True)
class DataSettings:
    """Rows of a batch, or the tokens of one where rows are of very different lengths (the other is 0). `held` rows are kept
    apart for the hard check. At most `list_most` of a teacher's tokens are matched at a position, and none less likely
    than `list_least`. Over the share `curriculum` of the steps longer rows come in; 0: all rows from the start. In a
    joint phase a capability has at most `turns_most` batches for one of another."""

    batch_size: int
    batch_tokens: int
    held: int
    list_most: int
    list_least: float
    curriculum: float
    turns_most: int


@dataclass(frozen=True, slots=True)
class PhaseSettings:
    """One phase: a ceiling of steps, and what is trained. `together`: all adapters at once, else each on its own. The last
    `backbone_blocks` blocks of the backbone are thawed; -1: all of it, with its embeddings."""

    name: str
    together: bool
    steps: int
    adapter_rate: float
    backbone_rate: float
    backbone_blocks: int
    warm_up: int
    clip: float


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """`kind` auto takes the 8-bit paged optimizer from `eight_bit_from` trained parameters on."""

    kind: str
    eight_bit_from: int
    weight_decay: float
    beta1: float
    beta2: float
    final_rate: float
    further_rate: float


@dataclass(frozen=True, slots=True)
class LossSettings:
    """The numbers of losses.py and anchoring.py. A weight goes from its first value to its floor over the share `anneal`
    of all steps. `prompt_weight` lets the student read the prompts as text too; 0 costs nothing."""

    ce_weight: float
    kl_weight: float
    temperature: float
    entropy_floor: float
    entropy_full: float
    alpha_hidden: float
    alpha_floor: float
    critical_weight: float
    variance_least: float
    variance_most: float
    beta_attention: float
    beta_floor: float
    anneal: float
    anchor_scale: float
    prompt_weight: float


@dataclass(frozen=True, slots=True)
class RecoverySettings:
    """When training goes back to its best checkpoint, what changes then, and how often at most."""

    spike_factor: float
    spike_least: float
    average_decay: float
    anchor_decay: float
    settle: int
    anchor_tolerance: float
    anchor_least: float
    raise_anchor: float
    cut_rate: float
    heal_after: int
    most_rollbacks: int
    check_every: int
    check_tolerance: float
    repair_steps: int
    repair_anchor: float


@dataclass(frozen=True, slots=True)
class RetentionSettings:
    """When the student is evaluated (from the share `first` of the ceiling on; `every` 0: never), on how much, and what
    ends training."""

    first: float
    every: int
    screen: int
    full: int
    margin: float
    patience: int


@dataclass(frozen=True, slots=True)
class JournalSettings:
    """Steps between checkpoints, and between lines of the journal."""

    checkpoint_every: int
    log_every: int


@dataclass(frozen=True, slots=True)
class TeachSettings:
    """Everything that decides how one adapter is taught, beside its data."""

    precision: str
    data: DataSettings
    accumulate: int
    phases: tuple[PhaseSettings, ...]
    optimizer: OptimizerSettings
    loss: LossSettings
    recovery: RecoverySettings
    retention: RetentionSettings
    journal: JournalSettings

    @property
    def steps(self) -> int:
        """The ceiling over all phases."""
        return sum(phase.steps for phase in self.phases)

    def as_json(self) -> dict[str, Any]:
        """The same as `teach_from` reads."""
        return asdict(self)


def read_teaching(preset: str, path: Path = PRESETS) -> TeachSettings:
    """The settings of a preset."""
    presets = yaml.safe_load(path.read_text(encoding="utf-8"))
    if preset not in presets:
        near = did_you_mean(preset, presets)
        raise UsageError(f'there is no preset "{preset}" in {path.name}{near}', f"presets: {', '.join(presets)}")
    return teach_from(presets[preset], f"{path.name}: {preset}")


def teach_from(raw: Any, where: str) -> TeachSettings:
    """The settings from parsed YAML or JSON."""
    settings = read_strict(raw, TeachSettings, where, _COMPARE)
    _one_of(settings.precision, PRECISIONS, f"{where}.precision")
    _one_of(settings.optimizer.kind, OPTIMIZERS, f"{where}.optimizer.kind")
    _ranges(settings, where)
    return settings


def _ranges(settings: TeachSettings, where: str) -> None:
    """What would make the loop divide by zero, never end, or never recover."""
    recovery, retention = settings.recovery, settings.retention
    rules = {
        "data.batch_size": (settings.data.batch_size > 0) != (settings.data.batch_tokens > 0),
        "data.held": settings.data.held >= 0,
        "data.turns_most": settings.data.turns_most >= 1,
        "data.curriculum": 0 <= settings.data.curriculum <= 1,
        "data.list_most": settings.data.list_most >= 1,
        "data.list_least": 0 <= settings.data.list_least < 1,
        "accumulate": settings.accumulate >= 1,
        "phases": bool(settings.phases)
        and all(p.steps >= 0 and p.warm_up >= 0 and p.clip > 0 for p in settings.phases)
        and sum(1 for _ in groupby(settings.phases, key=lambda p: p.together))
        <= 2,  # a kind has one place for checkpoints
        "loss.anneal": 0 <= settings.loss.anneal <= 1,
        "optimizer.final_rate": 0 <= settings.optimizer.final_rate <= 1,
        "optimizer.further_rate": 0 < settings.optimizer.further_rate <= 1,
        "recovery.spike_factor": recovery.spike_factor > 1,
        "recovery.spike_least": recovery.spike_least >= 0,
        "recovery.anchor_least": recovery.anchor_least >= 0,
        "recovery.average_decay": 0 <= recovery.average_decay < 1,
        "recovery.anchor_decay": 0 <= recovery.anchor_decay < 1,
        "recovery.raise_anchor": recovery.raise_anchor >= 1,
        "recovery.cut_rate": 0 < recovery.cut_rate <= 1,
        "recovery.most_rollbacks": recovery.most_rollbacks >= 0,
        "retention.first": 0 <= retention.first <= 1,
        "retention.every": retention.every >= 0,
        "retention.screen": 1 <= retention.screen <= retention.full,
        "retention.patience": retention.patience >= 1,
        "journal.checkpoint_every": settings.journal.checkpoint_every >= 1,
        "journal.log_every": settings.journal.log_every >= 1,
    }
    if broken := [key for key, holds in rules.items() if not holds]:
        raise DataError(f"{where}.{broken[0]} is out of its range", _COMPARE)


def _one_of(value: str, known: tuple[str, ...], where: str) -> None:
    if value not in known:
        raise DataError(f"{where} is {value!r}", f"known are: {', '.join(known)}")
