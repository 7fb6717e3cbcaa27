"""Variance curve, ablation heat map and head importance of a profile, in one picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from nexus_core.errors import NexusError
from nexus_core.profiling.model import CapabilityProfile, ComponentClass

COLOURS = {
    ComponentClass.NON_NEGOTIABLE: "#b3261e",
    ComponentClass.RECOVERABLE: "#e0a030",
    ComponentClass.DISCARDABLE: "#9aa5b1",
}


def draw(profile: CapabilityProfile, path: Path) -> None:
    """Write the picture; its format is the suffix's."""
    try:
        from matplotlib.figure import Figure  # no pyplot: no display, no global state
    except ImportError as error:
        raise NexusError("pictures need matplotlib", 'pip install "nexus-core[plots]"') from error
    figure = Figure(figsize=(13, 8), layout="constrained")
    (variance, components), (heat, heads) = figure.subplots(2, 2)
    _variance(variance, profile)
    _components(components, profile)
    _heat(heat, profile)
    _heads(heads, profile)
    figure.suptitle(
        f"{profile.teacher} on {profile.capability}: {profile.metric} {profile.baseline_score:.3f}, n = {profile.n}"
    )
    try:
        figure.savefig(path, dpi=110)
    except (OSError, ValueError) as error:
        raise NexusError(f"cannot draw to {path}: {error}", "give a path that ends in .png or .svg") from error


def _variance(axes: Any, profile: CapabilityProfile) -> None:
    for block in profile.blocks:
        axes.plot(np.cumsum(block.explained_variance), label=f"{block.block} ({block.pca.k} kept)")
    axes.set(title="Cumulative variance at answer positions", xlabel="components", ylabel="share", ylim=(0, 1.02))
    if profile.blocks:
        axes.legend()


def _components(axes: Any, profile: CapabilityProfile) -> None:
    """Drop of each singly tested component, blocks side by side, with its interval."""
    place = 0
    ticks: list[tuple[float, str]] = []
    for block in profile.blocks:
        single = [c for c in block.components if c.group is None]
        for offset, c in enumerate(single):
            axes.bar(place + offset, c.drop, color=COLOURS[c.cls])
            axes.plot([place + offset] * 2, [c.low, c.high], color="#333333", linewidth=0.8)
        ticks.append((place + len(single) / 2, block.block))
        place += len(single) + 2
    axes.set_xticks([x for x, _ in ticks], [name for _, name in ticks])
    axes.set(title="Drop without each component (red: non-negotiable)", ylabel="drop")


def _heat(axes: Any, profile: CapabilityProfile) -> None:
    """Ablations and weight perturbations, one row per block."""
    blocks = [block.block for block in profile.blocks]
    local = [p for p in profile.perturbations if p.block in blocks]
    kinds = list(dict.fromkeys(f"{p.kind} {_short(p.magnitude)}" for p in local))
    grid = np.full((len(blocks), len(kinds)), np.nan)
    for p in local:
        grid[blocks.index(str(p.block)), kinds.index(f"{p.kind} {_short(p.magnitude)}")] = p.drop
    axes.set(title="Drop under ablation")
    if grid.size:
        image = axes.imshow(grid, aspect="auto", cmap="Reds", vmin=0)
        axes.figure.colorbar(image, ax=axes)
        axes.set_xticks(range(len(kinds)), kinds, rotation=60, ha="right", fontsize=7)
        axes.set_yticks(range(len(blocks)), blocks)


def _short(magnitude: float | str) -> str:
    return f"{magnitude:g}" if isinstance(magnitude, float) else str(magnitude)


def _heads(axes: Any, profile: CapabilityProfile) -> None:
    labels = [f"{head.block.rsplit('.', 1)[-1]}.{head.head}" for head in profile.heads]
    drops = [head.drop for head in profile.heads]
    errors = [[h.drop - h.low for h in profile.heads], [h.high - h.drop for h in profile.heads]]
    if labels:
        axes.bar(range(len(labels)), drops, yerr=np.maximum(errors, 0), color="#3b6ea5", ecolor="#333333", capsize=2)
        axes.set_xticks(range(len(labels)), labels, rotation=60, fontsize=8)
    axes.set(title="Drop without each attention head (block.head)", ylabel="drop")
