"""The text tower: anchored bottlenecks for text capabilities; text and schema-checked tool calls out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_core.hooks import hookimpl
from nexus_core.types import AdapterPlan, DecodeOptions, ToolCall

if TYPE_CHECKING:
    from torch import nn

NEXUS_API = 1


@hookimpl
def build_adapter(plan: AdapterPlan) -> nn.Module | None:
    if plan.tower != "text" or plan.kind != "bottleneck":
        return None
    from nexus_core.student.adapter import AnchoredBottleneck

    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)


@hookimpl
def decode(modality: str, output: Any, options: DecodeOptions) -> str | ToolCall | None:
    from nexus_tower_text import decoding

    if modality == "text":
        return decoding.text(output, options)
    if modality == "tool_call":
        return decoding.tool_call(output, options)
    return None
