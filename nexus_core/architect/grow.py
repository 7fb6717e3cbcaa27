"""Back from verification: more capacity for the one adapter that does not meet its contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
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
    ranks = ranks_of(adapter)
    wanted = [min(math.ceil(max(rank, 1) * factor), _widest(arch, adapter)) for rank in ranks]
    for step in range(1, max(w - r for w, r in zip(wanted, ranks, strict=True)) + 1):
        larger = _with(arch, adapter, [max(r, min(r + step, w)) for w, r in zip(wanted, ranks, strict=True)])
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


def ranks_of(adapter: AdapterArch) -> list[int]:
    """What grows: the rank of its deltas, or without these those of its bottlenecks."""
    return [adapter.delta_rank] if adapter.delta_targets else [site.rank for site in adapter.sites]


def _widest(arch: StudentArch, adapter: AdapterArch) -> int:
    """A delta or bottleneck wider than what it works on has no use."""
    maps = projections(arch.backbone)
    if adapter.delta_targets:
        return min(min(maps[target]) for target in adapter.delta_targets)
    return int(arch.backbone["hidden_size"])


def _with(arch: StudentArch, adapter: AdapterArch, ranks: Sequence[int]) -> StudentArch:
    """The same student with these ranks in one adapter."""
    if adapter.delta_targets:
        larger = replace(adapter, delta_rank=ranks[0])
    else:
        sites = (replace(site, rank=rank) for site, rank in zip(adapter.sites, ranks, strict=True))
        larger = replace(adapter, sites=tuple(sites))
    kept = (larger if each.capability == adapter.capability else each for each in arch.adapters)
    return replace(arch, adapters=tuple(kept))


def _ranks(adapter: AdapterArch) -> str:
    what = "delta rank" if adapter.delta_targets else "ranks"
    return f"{what} {', '.join(map(str, ranks_of(adapter)))}"


def _no_room(arch: StudentArch, adapter: AdapterArch, budget: Budget) -> DataError:
    larger = _with(arch, adapter, [rank + 1 for rank in ranks_of(adapter)])
    over = budget.exceeded(sizes(larger))
    why = f"one rank more is {over[1]:,} parameters over {over[0].why}" if over else "it is as wide as the backbone"
    return DataError(
        f"the adapter of {adapter.capability} cannot grow beyond {_ranks(adapter)}: {why}",
        "plan fewer capabilities, or another preset, and distil again",
    )
