"""Python values as JSON and back, types kept: how arguments and answers cross the sandbox's pipes.

Only plain data crosses: numbers, text, None, lists, tuples, sets, dictionaries. An instance of anything else, a subclass
with its own `__eq__` above all, cannot reach the side that compares. Standard library only: the sandboxed side
imports this too.
"""

from __future__ import annotations

from typing import Any

_CONTAINERS = (("list", list), ("tuple", tuple), ("set", (set, frozenset)))


def encode(value: Any, depth: int = 0) -> Any:
    """A JSON value that stands for `value`; TypeError when it is not plain data."""
    if depth > 50:
        raise TypeError("value is nested too deeply")
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return {"float": float.hex(value)}
    if isinstance(value, complex):
        return {"complex": [float.hex(value.real), float.hex(value.imag)]}
    if isinstance(value, dict):
        return {"dict": [[encode(k, depth + 1), encode(v, depth + 1)] for k, v in value.items()]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    for name, kind in _CONTAINERS:
        if isinstance(value, kind):
            return {name: [encode(item, depth + 1) for item in value]}
    if isinstance(value, (int, str)):  # a subclass, such as an enumeration: reduce it to its plain value
        return int(value) if isinstance(value, int) else str.__str__(value)
    raise TypeError(f"a {type(value).__name__} is not plain data")


def decode(value: Any) -> Any:
    """What `encode` was given; ValueError when `value` was not made by `encode`."""
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("not an encoded value")
    [(kind, body)] = value.items()
    if kind == "float":
        return float.fromhex(body)
    if kind == "complex":
        return complex(*(float.fromhex(part) for part in body))
    if kind == "bytes":
        return bytes.fromhex(body)
    if kind == "dict":
        return {decode(key): decode(item) for key, item in body}
    if kind in ("list", "tuple", "set"):
        items = [decode(item) for item in body]
        return items if kind == "list" else tuple(items) if kind == "tuple" else set(items)
    raise ValueError(f"unknown kind {kind!r}")
