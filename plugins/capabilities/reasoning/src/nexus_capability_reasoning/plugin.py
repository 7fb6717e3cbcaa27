"""Entry point of the pack: nothing heavy here."""

from __future__ import annotations

from nexus_core.hooks import hookimpl
from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    """The pack answers for `reasoning` only."""
    if name != "reasoning":
        return None
    from nexus_capability_reasoning.metric import Reasoning

    return Reasoning()
