"""How much a run does: the rungs of ladder.yaml, and what such work was measured to cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from nexus_core.errors import DataError
from nexus_core.strict import read_strict

LADDER = Path(__file__).with_name("ladder.yaml")
_COMPARE = f"compare it with the {LADDER.name} that ships with Nexus"


@dataclass(frozen=True, slots=True)
class Rung:
    """One size of a run. The comments in ladder.yaml say what each number means."""

    samples: int
    profile: int
    held_back: int
    blocks: int
    signals: int
    characters: int
    drill: float
    steps: float
    verify: int
    returns: int
    growths: int
    growth: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What work was measured to cost, for estimates. The comments in ladder.yaml say what each number means."""

    profile: float
    signals: float
    score: float
    rows: float
    step: float
    step_parameters: float
    ask: float
    fixed: float
    memory_mb: int
    bytes_per_character: int


@dataclass(frozen=True, slots=True)
class Ladder:
    """All rungs by name, from the smallest up."""

    rungs: dict[str, Rung]
    measured: Measured

    def rung(self, samples: int) -> tuple[str, Rung]:
        """The rung for a sample size, and its name."""
        below = [name for name, rung in self.rungs.items() if rung.samples <= samples]
        name = below[-1] if below else next(iter(self.rungs))
        rung = self.rungs[name]
        return name, rung if samples == rung.samples else replace(rung, samples=samples, profile=samples)


def read_ladder(path: Path = LADDER) -> Ladder:
    """The ladder, strictly: a key that is missing or unknown is named."""
    raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(raw, dict) or set(raw) != {"rungs", "measured"} or not raw["rungs"]:
        raise DataError(f"{path.name}: expected the keys rungs and measured", _COMPARE)
    rungs = {
        str(name): read_strict(rung, Rung, f"{path.name}: rungs.{name}", _COMPARE)
        for name, rung in raw["rungs"].items()
    }
    sizes = [rung.samples for rung in rungs.values()]
    if sizes != sorted(set(sizes)):
        raise DataError(f"{path.name}: the rungs are not in the order of their samples", _COMPARE)
    return Ladder(rungs, read_strict(raw["measured"], Measured, f"{path.name}: measured", _COMPARE))
