"""Entry point of the pack: nothing heavy here."""

from __future__ import annotations

from nexus_core.hooks import hookimpl
from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    """The pack answers for `math` only."""
    if name != "math":
        return None
    from nexus_capability_math.metric import Math

    return Math()
