"""The arms of a study as frozen values; arms.yaml holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

from nexus_core.distill.settings import PhaseSettings, TeachSettings, teach_from
from nexus_core.errors import DataError, UsageError
from nexus_core.suggest import did_you_mean

ARMS = Path(__file__).with_name("arms.yaml")
ANSWERS = ("gold", "teacher")
Sections = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to teach. `answers` are "gold" or "teacher"; `changes` are sections of the teaching settings."""

    name: str
    title: str
    answers: str
    changes: tuple[Sections, ...]

    def teaching(self, preset: TeachSettings, steps: int | None) -> TeachSettings:
        """The preset as this arm has it, with its phases scaled to `steps` in all (None: as many as the preset's)."""
        raw = preset.as_json()
        for section, values in ((s, v) for sections in self.changes for s, v in sections.items()):
            before = raw.get(section)
            raw[section] = {**before, **values} if isinstance(before, Mapping) else values
        found = teach_from(raw, f"{ARMS.name}: {self.name}")
        return found if steps is None else replace(found, phases=scaled(found.phases, steps))


@dataclass(frozen=True, slots=True)
class Arms:
    """All that there are. `method` is the one that has to win over each of `baselines`."""

    method: str
    baselines: tuple[str, ...]
    arms: Mapping[str, Arm]

    def chosen(self, names: Sequence[str]) -> tuple[Arm, ...]:
        """Those that are named, in the file's order; all where none is."""
        for name in names:
            if name not in self.arms:
                near = did_you_mean(name, self.arms)
                raise UsageError(f'there is no arm "{name}"{near}', f"arms: {', '.join(self.arms)}")
        return tuple(arm for name, arm in self.arms.items() if not names or name in names)


def read_arms(path: Path = ARMS) -> Arms:
    """The arms of a file like arms.yaml; what cannot be meant is named."""
    raw = _keys(yaml.safe_load(path.read_text(encoding="utf-8")), path.name)
    every = _keys(raw.pop("every_arm", {}), f"{path.name}: every_arm")
    arms = {name: _arm(name, values, every, path) for name, values in _keys(raw.pop("arms", {}), path.name).items()}
    method, baselines = raw.pop("method", None), tuple(raw.pop("baselines", ()))
    if raw:
        raise DataError(f"{path.name}: unknown key {min(raw)!r}", "known keys: method, baselines, every_arm, arms")
    if unknown := [name for name in (method, *baselines) if name not in arms]:
        raise DataError(f"{path.name}: {unknown[0]!r} is none of its arms", f"arms: {', '.join(arms)}")
    return Arms(str(method), baselines, arms)


def _arm(name: str, raw: Any, every: Sections, path: Path) -> Arm:
    own = _keys(raw, f"{path.name}: {name}")
    title, answers = own.pop("title", name), own.pop("answers", None)
    if answers not in ANSWERS:
        raise DataError(f"{path.name}: {name}.answers is {answers!r}", f"known are: {', '.join(ANSWERS)}")
    return Arm(name, title, answers, (every, own))


def _keys(raw: Any, where: str) -> dict[str, Any]:
    if not isinstance(raw, Mapping):
        raise DataError(
            f"{where}: expected keys and values, found {type(raw).__name__}", f"compare it with {ARMS.name}"
        )
    return dict(raw)


def scaled(phases: Sequence[PhaseSettings], steps: int) -> tuple[PhaseSettings, ...]:
    """The same shares of `steps` in all. A warm-up becomes shorter with its phase, and never longer."""
    whole = sum(phase.steps for phase in phases)
    if not whole:
        raise UsageError("the preset has no steps that could be scaled", "give its phases some")
    ends = [round(steps * done / whole) for done in accumulate(phase.steps for phase in phases)]
    share = min(1.0, steps / whole)
    return tuple(
        replace(phase, steps=end - start, warm_up=round(phase.warm_up * share))
        for phase, start, end in zip(phases, [0, *ends], ends, strict=False)
    )
