"""Frozen values from parsed JSON or YAML: a key that is missing, unknown, or of another type is an error that names it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from nexus_core.errors import DataError

T = TypeVar("T")


def read_strict(raw: Any, cls: type[T], where: str, hint: str) -> T:
    """`cls` from a mapping that has each of its fields and no other key; nested dataclasses and tuples of them too.

    `where` names the file and the place in it; `hint` is what to do about a value that is wrong or missing.
    """
    names = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    if not isinstance(raw, Mapping):
        raise DataError(f"{where}: expected keys and values, found {type(raw).__name__}", f"keys: {', '.join(names)}")
    if unknown := sorted(map(str, set(raw) - set(names))):
        raise DataError(f"{where}: unknown key {unknown[0]!r}", f"known keys: {', '.join(names)}")
    if missing := [name for name in names if name not in raw]:
        raise DataError(f"{where}: the key {missing[0]!r} is missing", hint)
    hints = get_type_hints(cls)
    return cls(**{name: _value(raw[name], hints[name], f"{where}.{name}", hint) for name in names})


def _value(raw: Any, expected: Any, where: str, hint: str) -> Any:
    if is_dataclass(expected):
        return read_strict(raw, expected, where, hint)  # type: ignore[arg-type]
    if get_origin(expected) is tuple:
        if not isinstance(raw, list | tuple):
            raise DataError(f"{where}: expected a list, found {type(raw).__name__}", hint)
        return tuple(_value(item, get_args(expected)[0], f"{where}[{i}]", hint) for i, item in enumerate(raw))
    if get_origin(expected) is Mapping:
        if not isinstance(raw, Mapping):
            raise DataError(f"{where}: expected keys and values, found {type(raw).__name__}", hint)
        return dict(raw)
    if expected is float and type(raw) is int and abs(raw) < 2**1000:  # beyond that there is no float
        return float(raw)
    if type(raw) is not expected:
        raise DataError(f"{where} is {raw!r:.60}, expected {expected.__name__}", hint)
    return raw
