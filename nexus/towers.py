"""The towers' plugins, as a consumer uses them: they build adapters, and turn what was written into what is returned.

Each is found and loaded once, when the bundle is. One that is missing or broken is an error when it is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nexus.text import Decode
from nexus_core.discovery import discover
from nexus_core.errors import ModelError, UsageError
from nexus_core.plugins import Plugins
from nexus_core.types import AdapterPlan, DecodeOptions, Kind, ToolCall

if TYPE_CHECKING:
    from torch import nn

_TOOL = {"name": "f", "parameters": {"type": "object"}}
_TEXT, _CALL = "text", "tool_call"


class Towers:
    """The plugins of some towers, by the tower's name."""

    def __init__(self, names: Sequence[str]) -> None:
        installed = {ref.name for ref in discover() if ref.kind is Kind.TOWER}
        self._plugins = {name: Plugins([name]) for name in names if name in installed}
        self._speaks: dict[str, set[str]] = {}

    def rehearse(self, tokenizer: Any) -> None:
        """Load each plugin, and have it decode what it can: whatever it imports is then there."""
        trials: dict[str, tuple[Any, DecodeOptions]] = {
            _TEXT: ([0], DecodeOptions(processor=tokenizer)),
            _CALL: ('{"name": "f", "arguments": {}}', DecodeOptions(processor=tokenizer, tools=(_TOOL,))),
        }
        for name, plugins in self._plugins.items():
            if all(status.ok for status in plugins.status(Kind.TOWER)):
                self._speaks[name] = {
                    modality
                    for modality, (output, options) in trials.items()
                    if list(plugins.answers(Kind.TOWER, "decode", modality=modality, output=output, options=options))
                }

    def build(self, plan: AdapterPlan) -> nn.Module:
        """The module of one adapter."""
        return self._of(plan.tower).build_adapter(plan)

    def text(self, tower: str | None, tokenizer: Any) -> Decode:
        """How tokens become text: by the tower, or for the plain backbone by its tokenizer."""
        if tower is None:
            return lambda tokens: str(tokenizer.decode(tokens, skip_special_tokens=True))
        plugins = self._speaking(tower, _TEXT)
        options = DecodeOptions(processor=tokenizer)
        return lambda tokens: str(plugins.decode(_TEXT, tokens, options))

    def tool_call(self, tower: str | None, text: str, tokenizer: Any, tools: tuple[Any, ...]) -> ToolCall:
        """The call that a text is. The plain backbone's is read by the first tower that reads any."""
        if tower is None:
            tower = next((name for name, spoken in self._speaks.items() if _CALL in spoken), None)
        if tower is None:
            raise UsageError(
                "no installed tower reads tool calls", "install the text tower: pip install nexus-tower-text"
            )
        call: ToolCall = self._speaking(tower, _CALL).decode(_CALL, text, DecodeOptions(tokenizer, tools))
        return call

    def _speaking(self, tower: str, modality: str) -> Plugins:
        plugins = self._of(tower)
        if modality not in self._speaks.get(tower, set()):
            plugins.require()  # a plugin that was not loaded says why
            what = {_TEXT: "text", _CALL: "tool calls"}[modality]
            raise UsageError(f'the tower "{tower}" gives no {what}', "ask for another capability")
        return plugins

    def _of(self, tower: str) -> Plugins:
        if tower not in self._plugins:
            raise ModelError(
                f'the tower "{tower}" of this bundle is not installed',
                f"pip install nexus-tower-{tower.replace('_', '-')}",
            )
        return self._plugins[tower]
