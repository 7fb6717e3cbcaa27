"""The loop back from verification: one adapter grows, within the budget, and nothing else changes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from nexus_core.architect.architect import Request
from nexus_core.architect.budget import Budget, Limit
from nexus_core.architect.grow import grow
from nexus_core.architect.sizes import sizes
from nexus_core.errors import DataError

FREE = Budget(())


@pytest.fixture
def arch(bench):
    for teacher, capability in (("ada", "reasoning"), ("bob", "code"), ("cyd", "tools")):
        bench.profile(teacher, capability)
    return bench.architect.design(Request("tiny"))


def test_one_adapter_grows_and_nothing_else_changes(arch):
    grown = grow(arch, "code", 1.5, FREE)
    before, after = arch.adapter("code"), grown.adapter("code")
    assert after == replace(before, delta_rank=math.ceil(1.5 * before.delta_rank))
    assert [a for a in grown.adapters if a.capability != "code"] == [a for a in arch.adapters if a.capability != "code"]
    assert [a.capability for a in grown.adapters] == [a.capability for a in arch.adapters]
    assert replace(grown, adapters=arch.adapters, decisions=arch.decisions) == arch
    assert grown.decisions[:-1] == arch.decisions
    decision = grown.decisions[-1]
    assert (decision.action, decision.subject) == ("add", "capacity of code")
    assert f"delta rank {before.delta_rank} to delta rank {after.delta_rank}" in decision.reason


def test_the_reserve_of_the_design_is_what_it_grows_into(arch, bench):
    budget = bench.architect.budget(arch)
    grown = grow(arch, "code", 100, budget)
    assert grown.adapter("code").delta_rank > arch.adapter("code").delta_rank
    assert budget.exceeded(sizes(grown)) is None
    one_more = replace(grown.adapter("code"), delta_rank=grown.adapter("code").delta_rank + 1)
    kept = tuple(one_more if a.capability == "code" else a for a in grown.adapters)
    assert budget.exceeded(sizes(replace(grown, adapters=kept))) is not None


def test_without_room_it_says_by_how_much(arch):
    full = Budget((Limit("total", sizes(arch).total, "the budget of a test"),))
    with pytest.raises(DataError, match=r"cannot grow beyond delta rank \d+: one rank more is [\d,]+ parameters over"):
        grow(arch, "code", 2, full)


def test_deltas_grow_no_wider_than_what_they_change(arch):
    widest = grow(arch, "code", 1000, FREE)
    assert widest.adapter("code").delta_rank == 16  # keys and values of the backbone: 2 heads of 8
    with pytest.raises(DataError, match="as wide as the backbone"):
        grow(widest, "code", 2, FREE)


def test_without_deltas_the_bottlenecks_grow(arch):
    bare = replace(arch, adapters=tuple(replace(a, delta_rank=0, delta_targets=()) for a in arch.adapters))
    grown = grow(bare, "tools", 1.5, FREE)
    assert [s.rank for s in grown.adapter("tools").sites] == [15, 12, 9]
    assert grown.adapter("code") == bare.adapter("code")
    assert [s.rank for s in grow(bare, "tools", 99, FREE).adapter("tools").sites] == [32, 32, 32]


def test_unknown_capabilities_and_factors_are_refused(arch):
    with pytest.raises(DataError, match='no adapter for "poetry"'):
        grow(arch, "poetry", 2, FREE)
    for factor in (1.0, 0.5, -2, math.nan, math.inf):
        with pytest.raises(DataError, match="cannot grow by the factor"):
            grow(arch, "code", factor, FREE)
