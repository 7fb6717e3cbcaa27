"""What `nexus plugins check text` runs."""

from __future__ import annotations

from typing import Any

from nexus_core.testing import DecodeConformance, TowerConformance
from nexus_core.types import DecodeOptions, ToolCall

ADD = {
    "name": "add",
    "parameters": {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    },
}


class TestText(TowerConformance):
    plugin = "text"


class TestToolCall(DecodeConformance):
    plugin = "text"
    modality = "tool_call"

    def round_trip(self) -> tuple[Any, DecodeOptions, Any]:
        return '{"name": "add", "arguments": {"a": 2}}', DecodeOptions(tools=(ADD,)), ToolCall("add", {"a": 2})
