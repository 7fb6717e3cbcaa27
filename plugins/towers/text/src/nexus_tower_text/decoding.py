"""Token ids to text, and text to a tool call that its tool's schema accepts."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from nexus_core.errors import NexusError
from nexus_core.types import DecodeOptions, ToolCall

MAX_CALL = 64 << 10  # characters; a longer "call" is a runaway generation, and parsing it would only cost time


def text(output: Any, options: DecodeOptions) -> str:
    """The text of token ids (or text, which stays as it is)."""
    if isinstance(output, str):
        return output
    if options.processor is None:
        raise NexusError("text cannot be decoded without a tokenizer", "give it as DecodeOptions(processor=tokenizer)")
    decoded: str = options.processor.decode(output, skip_special_tokens=True)
    return decoded


def tool_call(output: Any, options: DecodeOptions) -> ToolCall:
    """The single JSON call in the output. Anything else is an error that says what the model wrote instead."""
    call = _parse(text(output, options).strip())
    name, arguments = call.get("name"), call.get("arguments")
    if not isinstance(name, str) or not isinstance(arguments, Mapping) or set(call) != {"name", "arguments"}:
        raise NexusError(
            'the call has not the form {"name": ..., "arguments": {...}}', "ask again, or correct the prompt"
        )
    schemas = {tool["name"]: tool.get("parameters", {}) for tool in options.tools}
    if name not in schemas:
        raise NexusError(
            f"the model called the unknown tool {name!r}", f"known tools: {', '.join(sorted(schemas)) or 'none'}"
        )
    if said := _breach(name, schemas[name], arguments):
        raise NexusError(f"the call of {name!r} breaks its schema: {said}", "ask again, or correct the schema")
    return ToolCall(name, arguments)


def _breach(name: str, schema: Any, arguments: Mapping[str, Any]) -> str:
    """How `arguments` break `schema`, or an empty string. A schema is data of the user's: it may be nonsense too."""
    from jsonschema import Draft202012Validator, SchemaError
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    try:
        Draft202012Validator.check_schema(schema)
        # A registry of its own, which fetches nothing: the default one follows a $ref to files and to the network.
        validator = Draft202012Validator(schema, registry=Registry())
        error = next(validator.iter_errors(dict(arguments)), None)
    except (SchemaError, Unresolvable, re.error, RecursionError) as problem:
        said = " ".join(str(getattr(problem, "message", problem)).split())[:200]
        raise NexusError(f"the schema of {name!r} cannot be used: {said}", "correct the tool's parameters") from problem
    return error.message[:200] if error else ""


def _parse(written: str) -> Mapping[str, Any]:
    if len(written) > MAX_CALL:
        raise NexusError(f"the model wrote {len(written):,} characters where a call was wanted", "lower max_new_tokens")
    try:
        call = json.loads(written, parse_constant=_refuse_constant, object_pairs_hook=_each_once)
    except (ValueError, RecursionError) as error:
        raise NexusError(
            f"the model wrote no JSON call: {written[:80]!r}", "ask again, or correct the prompt"
        ) from error
    if not isinstance(call, Mapping):
        raise NexusError(
            f"the model wrote {type(call).__name__} where a call was wanted", "ask again, or correct the prompt"
        )
    return call


def _refuse_constant(name: str) -> None:
    """NaN and Infinity are not JSON, though Python's parser takes them."""
    raise ValueError(name)


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Python takes the last of two equal keys; which one the model meant is not known."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a key is there twice")
    return found
