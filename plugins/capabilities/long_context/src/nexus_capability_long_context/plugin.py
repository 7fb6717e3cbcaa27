"""Hooks of the `long_context` capability pack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_core.hooks import hookimpl

if TYPE_CHECKING:
    from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    if name != "long_context":
        return None
    from nexus_capability_long_context.metric import LongContext

    return LongContext()
