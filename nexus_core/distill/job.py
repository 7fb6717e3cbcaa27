"""What one adapter's training is given, what it ends with, and where it is in between."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from nexus_core.distill.batches import Batch
from nexus_core.distill.objective import Objective
from nexus_core.distill.recovery import RecoveryState, state_from
from nexus_core.distill.retention import Progress, Validation
from nexus_core.distill.settings import TeachSettings
from nexus_core.distill.spaces import AnchorSpace


class BatchSource(Protocol):
    """Batches by position: the same position, the same batch, whatever was asked for before."""

    def at(self, position: int) -> Batch: ...


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """One adapter to teach. `held` are batches of rows that training never sees, for the hard check, and `spaces` the
    limits that it knows; `identity` names what decides the outcome beside the settings: data, objective, architecture,
    seed. Without a `validation` training ends at its ceiling."""

    student: Any
    capability: str  # of several that are taught at once, the name of the whole
    batches: BatchSource
    objective: Objective
    settings: TeachSettings
    checkpoints: Path
    journal: Path
    identity: str = ""
    held: Sequence[Batch] = ()
    spaces: Sequence[AnchorSpace] = ()
    validation: Validation | None = None
    device: str = "cpu"
    allow_isolated: bool = False
    together: tuple[str, ...] = ()  # the capabilities of a joint training, in the order of their batches
    workers: int = 1  # threads that share the batches of a step; they decide nothing but time
    say: Callable[[str], None] = lambda text: None

    @property
    def taught(self) -> tuple[str, ...]:
        """The capabilities whose adapters are trained."""
        return self.together or (self.capability,)

    @property
    def digest(self) -> str:
        """What a checkpoint must have been made with to be gone on from."""
        content = json.dumps([self.capability, self.identity, self.settings.as_json()], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a training ended. `reason` is "contract met", "stalled" or "ceiling"; rollbacks undid `lost` of the steps;
    `measured` is the last evaluation of the weights that were kept, as `retention.Measured` has it."""

    capability: str
    reason: str
    steps: int
    lost: int
    positions: int
    tokens: int
    seconds: float
    evaluation_seconds: float
    rollbacks: tuple[Mapping[str, Any], ...]
    measured: Mapping[str, Any] | None


@dataclass(slots=True)
class Place:
    """Where a training is: everything that a checkpoint brings back beside tensors."""

    step: int = 0  # steps that were made; it never goes back
    lost: int = 0  # of them, those whose work a rollback undid
    position: int = 0  # of the next batch; it never goes back
    phase: int = 0
    phase_start: int = 0  # in steps that count
    tokens: int = 0
    seconds: float = 0.0
    evaluation_seconds: float = 0.0
    recovery: RecoveryState = field(default_factory=RecoveryState)
    progress: Progress = field(default_factory=Progress)
    best_key: tuple[float, ...] | None = None
    measured: Mapping[str, Any] | None = None
    turns: tuple[tuple[int, Mapping[str, int]], ...] = ()  # of a joint training, where they changed
    outcome: Mapping[str, Any] | None = None

    @property
    def counted(self) -> int:
        """Steps whose work is in the weights: schedules and ceilings go by them, so trouble costs time and not teaching."""
        return self.step - self.lost

    def as_json(self) -> dict[str, Any]:
        """The same as `place_from` reads."""
        return asdict(self)


def place_from(raw: Mapping[str, Any]) -> Place:
    """The place that a checkpoint holds."""
    key = raw["best_key"]
    values = {
        "recovery": state_from(raw["recovery"]),
        "progress": Progress(**raw["progress"]),
        "best_key": None if key is None else tuple(key),
        "turns": tuple((int(start), dict(turns)) for start, turns in raw["turns"]),
    }
    return Place(**{**raw, **values})


def outcome_from(raw: Mapping[str, Any]) -> Outcome:
    """The outcome that a finished training's checkpoint holds."""
    return Outcome(**{**raw, "rollbacks": tuple(raw["rollbacks"])})
