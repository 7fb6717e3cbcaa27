"""The prompt of a tool call, in the words that the capability was taught with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_core.errors import UsageError

Tool = Mapping[str, Any]
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]{0,63}")  # a name is a part of the prompt: no blank, no bracket, no newline
_FORM = 'a tool is {"name": ..., "description": ..., "parameters": {a JSON Schema of an object}}'
_NO_PARAMETERS = {"type": "object", "properties": {}}


def read_tools(tools: Any) -> tuple[dict[str, Any], ...]:
    """Tools as a list, plain or in OpenAI's `{"type": "function", "function": ...}`, or as a mapping from their names."""
    if isinstance(tools, Mapping):
        tools = [{"name": name, **_mapping(tool)} for name, tool in tools.items()]
    if not isinstance(tools, Sequence) or isinstance(tools, str | bytes) or not tools:
        raise UsageError("tools must be a list of at least one tool", _FORM)
    read = tuple(_read(_mapping(tool)) for tool in tools)
    names = [tool["name"] for tool in read]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UsageError(f'two tools are called "{twice[0]}"', "give each tool a name of its own")
    return read


def _mapping(tool: Any) -> Tool:
    if not isinstance(tool, Mapping):
        raise UsageError(f"a tool is {type(tool).__name__}, not an object", _FORM)
    return tool


def _read(tool: Tool) -> dict[str, Any]:
    tool = _mapping(tool.get("function", tool))
    name, parameters = tool.get("name"), tool.get("parameters") or _NO_PARAMETERS
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UsageError(f"{name!r} cannot be the name of a tool", "use letters, digits, '_', '-' and '.'")
    if not isinstance(parameters, Mapping) or not isinstance(parameters.get("properties", {}), Mapping):
        raise UsageError(f'the parameters of "{name}" are no JSON Schema of an object', _FORM)
    if not isinstance(parameters.get("required", []), list | tuple):
        raise UsageError(f'"required" of "{name}" is no list of arguments', _FORM)
    for argument in parameters.get("properties", {}):
        if not isinstance(argument, str) or not NAME.fullmatch(argument):
            raise UsageError(f'{argument!r} cannot be an argument of "{name}"', "use letters, digits, '_', '-' and '.'")
    return {**tool, "parameters": parameters}


def tool_prompt(request: str, tools: Sequence[Tool]) -> str:
    """Short signatures, the request, and the word that a call follows: what the `tools` pack writes."""
    return f"Tools: {' '.join(map(signature, tools))}\nRequest: {request}\nJSON:"


def signature(tool: Tool) -> str:
    """`get_weather(city,date?)`: the arguments by name, with a question mark where one may be left out."""
    required = tool["parameters"].get("required", ())
    names = (name if name in required else f"{name}?" for name in tool["parameters"].get("properties", {}))
    return f"{tool['name']}({','.join(names)})"
