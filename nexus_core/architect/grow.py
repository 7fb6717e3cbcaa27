"""Back from verification: more capacity for the one adapter that does not meet its contract."""

from __future__ import annotations

import math
from dataclasses import replace

from nexus_core.architect.budget import Budget
from nexus_core.architect.sizes import projections, sizes
from nexus_core.errors import DataError
from nexus_core.student.arch import AdapterArch, Decision, StudentArch


def grow(arch: StudentArch, capability: str, factor: float, budget: Budget) -> StudentArch:
    """The same student with `factor` times the rank of the deltas of one capability, or as much of it as fits.

    Without deltas its bottlenecks grow. Nothing else changes: adapters of other capabilities keep their weights. The
    reserve that `design` kept back is what this is for.
    """
    if not (math.isfinite(factor) and factor > 1):
        raise DataError(f"an adapter cannot grow by the factor {factor:g}", "give a factor above 1")
    adapter = arch.adapter(capability)
    before = sizes(arch).adapters[capability]
    grown = arch
    for step in range(1, _steps(arch, adapter, factor) + 1):
        larger = _with(arch, _grown(arch, adapter, step))
        if budget.exceeded(sizes(larger)):
            break
        grown = larger
    if grown is arch:
        raise _no_room(arch, adapter, budget)
    after = grown.adapter(capability)
    reason = (
        f"{_ranks(adapter)} to {_ranks(after)}, {before:,} to {sizes(grown).adapters[capability]:,} parameters: "
        f"it did not meet its contract (asked for: {factor:g} times)"
    )
    return replace(grown, decisions=(*arch.decisions, Decision("add", f"capacity of {capability}", reason)))


def _steps(arch: StudentArch, adapter: AdapterArch, factor: float) -> int:
    """By how much its rank would grow; a delta or bottleneck wider than what it works on has no use."""
    if adapter.delta_targets:
        maps = projections(arch.backbone)
        most = min(min(maps[target]) for target in adapter.delta_targets)
        rank = adapter.delta_rank
        return max(0, min(math.ceil(max(rank, 1) * factor), most) - rank)
    ranks = [site.rank for site in adapter.sites]
    return max(0, min(math.ceil(max(ranks) * factor), int(arch.backbone["hidden_size"])) - min(ranks))


def _grown(arch: StudentArch, adapter: AdapterArch, step: int) -> AdapterArch:
    if adapter.delta_targets:
        return replace(adapter, delta_rank=adapter.delta_rank + step)
    width = int(arch.backbone["hidden_size"])
    sites = tuple(replace(site, rank=min(site.rank + step, width)) for site in adapter.sites)
    return replace(adapter, sites=sites)


def _with(arch: StudentArch, adapter: AdapterArch) -> StudentArch:
    kept = (adapter if each.capability == adapter.capability else each for each in arch.adapters)
    return replace(arch, adapters=tuple(kept))


def _ranks(adapter: AdapterArch) -> str:
    if adapter.delta_targets:
        return f"delta rank {adapter.delta_rank}"
    return f"ranks {', '.join(str(site.rank) for site in adapter.sites)}"


def _no_room(arch: StudentArch, adapter: AdapterArch, budget: Budget) -> DataError:
    larger = sizes(_with(arch, _grown(arch, adapter, 1)))
    over = budget.exceeded(larger)
    why = f"one rank more is {over[1]:,} parameters over {over[0].why}" if over else "it is as wide as the backbone"
    return DataError(
        f"the adapter of {adapter.capability} cannot grow beyond {_ranks(adapter)}: {why}",
        "plan fewer capabilities, or another preset, and distil again",
    )
