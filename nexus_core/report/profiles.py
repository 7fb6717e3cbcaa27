"""What carries each capability in its teacher: the spectrum of each block, and what the loss of a piece costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any

from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import BlockProfile, CapabilityProfile
from nexus_core.report.artifacts import Part, absent

CURVE = 64  # points of a curve: more are not seen


def read_profiles(run: Path) -> list[CapabilityProfile]:
    """Every profile of the run; a damaged one is an error."""
    store = ProfileStore(run / OUTPUT)
    return [store.read(*key) for key in store.profiles()] if store.root.is_dir() else []


def profiles_part(run: Path, profiles: list[CapabilityProfile]) -> Part:
    """One entry for each teacher and capability."""
    if not profiles:
        return absent("no teacher was profiled", "profile", "--teacher", "ID", "--capability", "NAME", "--run", run)
    return {"rows": [_profile(profile) for profile in profiles]}


def _profile(profile: CapabilityProfile) -> Part:
    return {
        "teacher": profile.teacher,
        "capability": profile.capability,
        "weights": profile.weights_hash,
        "metric": profile.metric,
        "score": profile.baseline_score,
        "n": profile.n,
        "seed": profile.seed,
        "seconds": profile.seconds,
        "notes": list(profile.notes),
        "blocks": [_block(block) for block in profile.blocks],
        "ablations": list(_ablations(profile)),
    }


def _block(block: BlockProfile) -> Part:
    held = list(accumulate(block.explained_variance))
    return {
        "block": block.block,
        "dim": block.dim,
        "kept": block.pca.k,
        "proven": len(block.proven),
        "by_caution": len(block.non_negotiable) - len(block.proven),
        "tested": len(block.components),
        "tolerance": block.tolerance,
        "variance_of_kept": sum(block.explained_variance[i] for i in block.component_indices),
        "note": block.note,
        "curve": [[i + 1, round(held[i], 5)] for i in _spread(len(held))],
    }


def _spread(n: int) -> list[int]:
    """At most CURVE indices below n, closer together at the beginning, where a spectrum bends."""
    if n <= CURVE:
        return list(range(n))
    return sorted({round((n - 1) * (i / (CURVE - 1)) ** 2) for i in range(CURVE)})


def _ablations(profile: CapabilityProfile) -> Iterator[Mapping[str, Any]]:
    """Of a block: bypassed, its attention heads silenced one by one, pieces of its MLP, its weights disturbed."""
    for block in profile.blocks:
        pieces = 0
        for found in (p for p in profile.perturbations if p.block == block.block):
            what = f"{found.kind.replace('_', ' ')} {_short(found.magnitude)}"
            if found.kind == "mlp_chunk":
                pieces += 1
                what = f"MLP piece {pieces}"
            yield {"block": block.block, "what": what, "drop": found.drop, "low": found.low, "high": found.high}
        for head in (h for h in profile.heads if h.block == block.block):
            what = f"head {head.head}"
            yield {"block": block.block, "what": what, "drop": head.drop, "low": head.low, "high": head.high}


def _short(magnitude: float | str) -> str:
    return f"{magnitude:g}" if isinstance(magnitude, float) else str(magnitude)
