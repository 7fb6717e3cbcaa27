"""A teacher that the registry has set aside teaches nothing, and the plan says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_core.architect.architect import Request
from nexus_core.registry import Fate


@pytest.mark.parametrize(
    ("fate", "action", "said"),
    [
        (Fate("drop", "it is slow"), "drop", "it is slow (the registry says so)"),
        (Fate("merge", "kin", "bob"), "merge", "into bob/reasoning: kin (the registry says so)"),
    ],
)
@pytest.mark.parametrize("profiled", [True, False])
def test_it_teaches_nothing_and_its_reason_is_in_the_plan(bench, fate, action, said, profiled):
    if profiled:
        bench.profile("ada", "reasoning", baseline_score=1.0)
    bench.profile("bob", "reasoning", baseline_score=0.5)
    rows = {**bench.registry.teachers, "ada": replace(bench.registry.teachers["ada"], fate=fate)}
    bench.registry = replace(bench.registry, teachers=rows)
    arch = bench.architect.design(Request("small"))
    assert arch.adapter("reasoning").teacher == "bob"
    assert [d.reason for d in arch.decisions if (d.action, d.subject) == (action, "ada/reasoning")] == [said]
