"""Reading, validating and comparing tool calls. Outputs are hostile until read: nothing here may crash or hang."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jsonschema

from nexus_core.errors import DataError
from nexus_core.types import ToolCall

MAX_CHARACTERS = 20_000  # far above any call that a schema of ours asks for

# BFCL writes Python's names for types, and "any" where JSON Schema says nothing at all.
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "list": "array", "int": "integer", "str": "string"}
# The keywords that survive. `$ref` could reach the network and `pattern` could hang a regular expression.
_COPIED = ("description", "enum", "minimum", "maximum", "minLength", "maxLength", "required", "additionalProperties")


def clean_schema(schema: Any, where: str) -> dict[str, Any]:
    """A foreign tool schema as plain JSON Schema, from an allow-list of keywords."""
    if not isinstance(schema, Mapping):
        raise DataError(
            f"{where}: a tool's parameters are {type(schema).__name__}, not an object", "write a JSON Schema object"
        )
    cleaned: dict[str, Any] = {key: schema[key] for key in _COPIED if key in schema}
    if isinstance(cleaned.get("additionalProperties"), Mapping):
        cleaned["additionalProperties"] = clean_schema(cleaned["additionalProperties"], where)
    kind = schema.get("type")
    if isinstance(kind, str) and kind != "any":
        cleaned["type"] = _TYPES.get(kind.lower(), kind.lower())
    if isinstance(schema.get("properties"), Mapping):
        cleaned["properties"] = {str(key): clean_schema(value, where) for key, value in schema["properties"].items()}
        cleaned.setdefault("additionalProperties", False)
    if isinstance(schema.get("items"), Mapping):
        cleaned["items"] = clean_schema(schema["items"], where)
    try:
        jsonschema.Draft202012Validator.check_schema(cleaned)
    except jsonschema.SchemaError as error:
        raise DataError(
            f"{where}: a tool's schema cannot be used: {error.message}", "correct the tool's parameters"
        ) from error
    return cleaned


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = dict(pairs)
    if len(keys) != len(pairs):
        raise ValueError("a key is given twice")
    return keys


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is no finite number")
    return number


def parse_call(output: Any) -> ToolCall | None:
    """The call that an output is, or None. The output must be one JSON object and nothing beside it."""
    if not isinstance(output, str) or len(output) > MAX_CHARACTERS:
        return None
    try:
        call = json.loads(output, object_pairs_hook=_unique, parse_constant=_no_constant, parse_float=_finite)
    except (ValueError, RecursionError):  # RecursionError: brackets nested deeper than the interpreter's stack
        return None
    if not isinstance(call, dict) or call.keys() != {"name", "arguments"}:
        return None
    if not isinstance(call["name"], str) or not isinstance(call["arguments"], dict):
        return None
    return ToolCall(call["name"], call["arguments"])


def is_valid(call: ToolCall | None, tools: Mapping[str, Any]) -> bool:
    """Whether a call names one of `tools` (name -> JSON Schema) and its arguments fit that schema."""
    if call is None or call.name not in tools:
        return False
    try:
        return bool(jsonschema.Draft202012Validator(tools[call.name]).is_valid(call.arguments))
    except RecursionError:
        return False


def same(left: Any, right: Any) -> bool:
    """Equality of JSON values: the order of keys does not matter, 3 equals 3.0, and true is not 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, int | float) and isinstance(right, int | float):
        return left == right
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return left.keys() == right.keys() and all(same(value, right[key]) for key, value in left.items())
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and bool(left == right)


def _loose(text: str) -> str:
    """BFCL compares strings without case, blanks and light punctuation (`standardize_string` of its checker)."""
    return re.sub(r"[ ,./\-_*^]", "", text).lower().replace("'", '"')


def matches(possible: Any, value: Any) -> bool:
    """Whether a value is what BFCL's possible answer describes; in an object each key lists what it may be."""
    if isinstance(possible, Mapping):
        return isinstance(value, Mapping) and accepts(possible, value)
    if isinstance(possible, list):
        return isinstance(value, list) and len(value) == len(possible) and all(map(matches, possible, value))
    if isinstance(possible, str) and isinstance(value, str):
        return _loose(possible) == _loose(value)
    return same(possible, value)


def accepts(possible: Mapping[str, Any], arguments: Mapping[str, Any]) -> bool:
    """Whether every argument is one of its possible values, and every one left out may be (an empty string says so)."""
    if not arguments.keys() <= possible.keys():
        return False
    for key, options in possible.items():
        choices: Sequence[Any] = options if isinstance(options, list) else [options]
        if key not in arguments:
            if not any(isinstance(choice, str) and choice == "" for choice in choices):
                return False
        elif not any(matches(choice, arguments[key]) for choice in choices):
            return False
    return True
