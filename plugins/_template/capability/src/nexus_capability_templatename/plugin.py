"""Registers the capability `templatename`. The pack itself is in `pack.py`, imported when it is asked for."""

from __future__ import annotations

from nexus_core.hooks import hookimpl
from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    if name != "templatename":
        return None
    from nexus_capability_templatename.pack import Templatename

    return Templatename()
