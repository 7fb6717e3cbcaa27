"""Check a document against the JSON Schema, and say each problem in words, with its line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from nexus_core.registry.problems import Problem
from nexus_core.registry.reader import Document, Key
from nexus_core.suggest import did_you_mean

if TYPE_CHECKING:
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import ValidationError

_HINTS = {
    "direction": "add `direction: higher` (accuracy) or `direction: lower` (error rate)",
    "version": "add `version: 1` at the top",
}
_WORDS = {"object": "a mapping", "array": "a list", "string": "text", "null": "null", "boolean": "true or false"}
_WORDS |= {"integer": "a whole number", "number": "a number"}


def check_shape(document: Document, fragment: bool) -> list[Problem]:
    """Every way in which the document's shape is wrong, in the order of the file."""
    errors = _validator(fragment).iter_errors(document.data)
    # jsonschema reports each missing key of a row on its own, and every report names them all: keep one of each
    problems = dict.fromkeys(problem for error in errors for problem in _problems(document, error))
    return sorted(problems, key=lambda problem: problem.line)


@cache
def _validator(fragment: bool) -> Draft202012Validator:
    from jsonschema import Draft202012Validator  # 80 ms: not for those who only ask for help

    schema = json.loads(files("nexus_core.registry").joinpath("schema.json").read_text("utf-8"))
    if fragment:
        schema = {"$ref": "#/$defs/fragment", "$defs": schema["$defs"]}
    return Draft202012Validator(schema)


def _problems(document: Document, error: ValidationError) -> Iterator[Problem]:
    key: Key = tuple(error.absolute_path)
    where = ".".join(map(str, key)) or "the file"
    rule: Any = error.validator_value
    instance: Any = error.instance
    if error.validator == "additionalProperties":
        yield from _unknown_keys(document, error, key)
    elif error.validator == "required":
        for name in rule:
            if name not in instance:
                yield document.problem(key, f'{where} has no "{name}"', _HINTS.get(name, f"add `{name}:`"))
    elif error.validator == "type":
        shown = " or ".join(_WORDS[name] for name in (rule if isinstance(rule, list) else [rule]))
        yield document.problem(key, f"{where} is {_show(error.instance)}, not {shown}", f"write {shown}")
    elif error.validator == "enum":
        guess = did_you_mean(str(error.instance), rule)
        yield document.problem(key, f"{where} is {_show(error.instance)}{guess}", f"one of: {', '.join(rule)}")
    elif error.validator == "pattern" and "propertyNames" in error.absolute_schema_path:
        hint = "lower-case letters, digits and _ (teachers also - and .)"
        name = str(error.instance)
        yield document.problem((*key, name), f'"{name[:60]}" in {where} cannot be an id', hint)
    else:
        yield document.problem(key, f"{where}: {_short(error.message)}", "see docs/how-to/registry.md")


def _unknown_keys(document: Document, error: ValidationError, key: Key) -> Iterator[Problem]:
    schema: Any = error.schema
    instance: Any = error.instance
    known = schema.get("properties", {})
    inside = f" in {'.'.join(map(str, key))}" if key else ""
    for name in instance:
        if name not in known:
            message = f'unknown key "{name[:60]}"{inside}{did_you_mean(name, known)}'
            yield document.problem((*key, name), message, f"known here: {', '.join(known)}")


def _show(value: Any) -> str:
    return _short(json.dumps(value, ensure_ascii=False))


def _short(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."
