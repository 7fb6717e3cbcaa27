"""Hooks of the `tools` capability pack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_core.hooks import hookimpl

if TYPE_CHECKING:
    from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    if name != "tools":
        return None
    from nexus_capability_tools.metric import Tools

    return Tools()
