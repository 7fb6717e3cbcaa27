"""What a bundle's consumer imports: `from nexus import NexusModel`. torch comes with the first touch of `NexusModel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_core.errors import NexusError, UsageError
from nexus_core.types import ToolCall

if TYPE_CHECKING:
    from nexus.model import NexusModel, Route

__all__ = ["NexusError", "NexusModel", "Route", "ToolCall", "UsageError"]


def __getattr__(name: str) -> Any:
    if name in ("NexusModel", "Route"):
        from nexus import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
