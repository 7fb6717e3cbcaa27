"""The pack's one hook. Nothing is imported until somebody asks for `code`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus_core.hooks import hookimpl

if TYPE_CHECKING:
    from nexus_core.types import CapabilityMetric

NEXUS_API = 1


@hookimpl
def capability_metric(name: str) -> CapabilityMetric | None:
    if name != "code":
        return None
    from nexus_capability_code.metric import CodeMetric

    return CodeMetric()
