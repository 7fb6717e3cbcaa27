"""Learning curves of a study: cross-entropy by capability over steps, one line per arm, with the spread over its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.distill.journal import STEPS
from nexus_core.distill.material import WORK
from nexus_core.distill.run import JOINT
from nexus_core.errors import NexusError
from nexus_core.study.unit import read_rows, unit_name

Floats = NDArray[np.float64]
COLOURS = ("#9aa5b1", "#3b6ea5", "#e0a030", "#b3261e", "#3a7d44", "#7b4ea3")
POINTS = 200  # of a line
SMOOTH = 40  # parts of a training over which single batches are averaged


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """One capability in one unit. `rollbacks` are steps."""

    steps: Floats
    nll: Floats
    rollbacks: tuple[float, ...]

    def at(self, grid: Floats) -> Floats:
        """Smoothed, at these steps."""
        width = max(1, len(self.nll) // SMOOTH)
        summed = np.cumsum(np.concatenate([[0.0], self.nll]))
        ends = np.arange(1, len(self.nll) + 1)
        starts = np.maximum(ends - width, 0)
        found: Floats = np.interp(grid, self.steps, (summed[ends] - summed[starts]) / (ends - starts))
        return found


def curve(folder: Path, trainings: Sequence[str], capability: str) -> Curve | None:
    """Through the trainings of a unit in their order; None where none of them logged this capability."""
    steps: list[float] = []
    nll: list[float] = []
    rollbacks: list[float] = []
    before = 0
    for name in trainings:
        key = {JOINT: f"nll/{capability}", capability: "nll"}.get(name)
        if key is None:
            continue
        last = 0
        for row in read_rows(folder / WORK / name / STEPS):
            last = row["step"]
            if row.get("event") == "rollback":
                rollbacks.append(float(before + last))
            elif "event" not in row and isinstance(row.get(key), float):
                steps.append(float(before + last))
                nll.append(row[key])
        before += last
    return Curve(np.array(steps), np.array(nll), tuple(rollbacks)) if steps else None


def draw(folder: Path, found: Mapping[str, Any], path: Path) -> None:
    """Write the picture of a study in `folder` whose study.json is `found`."""
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, no global state
    except ImportError as error:
        raise NexusError("pictures need matplotlib", 'pip install "nexus-core[plots]"') from error
    capabilities = found["capabilities"]
    figure = Figure(figsize=(6 * len(capabilities), 4.5), layout="constrained")
    for axes, capability in zip(figure.subplots(1, len(capabilities), squeeze=False)[0], capabilities, strict=True):
        for i, (arm, of) in enumerate(found["arms"].items()):
            units = {seed: unit for seed, unit in of["seeds"].items() if unit["failed"] is None}
            curves = [
                curve(folder / unit_name(arm, int(seed)), unit["trainings"], capability) for seed, unit in units.items()
            ]
            _lines(axes, arm, [one for one in curves if one is not None], COLOURS[i % len(COLOURS)])
        axes.set(title=capability, xlabel="steps (x: rollback)", yscale="log")
        axes.set_ylabel("cross-entropy of the answers that are taught")
        if axes.lines:
            axes.legend()
    figure.suptitle(f"{found['seeds']} seeds: mean, and from the lowest to the highest")
    try:
        figure.savefig(path, dpi=110)
    except OSError as error:
        raise NexusError(f"cannot draw to {path}: {error}", "see whether the disk is full") from error


def _lines(axes: Any, arm: str, curves: Sequence[Curve], colour: str) -> None:
    if not curves:
        return
    grid = np.linspace(max(c.steps[0] for c in curves), min(c.steps[-1] for c in curves), POINTS)
    values = np.stack([one.at(grid) for one in curves])
    mean = values.mean(axis=0)
    axes.plot(grid, mean, color=colour, label=arm)
    axes.fill_between(grid, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    marks = [step for one in curves for step in one.rollbacks]
    if marks:
        axes.plot(marks, np.interp(marks, grid, mean), "x", color=colour)
