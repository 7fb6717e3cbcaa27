"""The sticky state of a run: what was asked for, and how far it is. `.pipeline_state.json`, made to be edited by hand.

A resume without flags is the same run, because every flag that was *given* is recorded, also when it equals a
default. A flag that was not given leaves no trace: later versions may change its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from enum import Enum
from functools import cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Final, Self

from nexus_core.atomic import write_atomic
from nexus_core.errors import StateError
from nexus_core.lock import ProcessLock
from nexus_core.suggest import did_you_mean

STATE_FILE = Path(".pipeline_state.json")
SCHEMA_VERSION = 1
_RESET = "correct it by hand, or delete the file to start over"
_PROGRESS = ("schema_version", "stage", "units")


class NotGiven(Enum):
    """The type of `NOT_GIVEN`."""

    NOT_GIVEN = "not given"


NOT_GIVEN: Final = NotGiven.NOT_GIVEN
"""The value of a flag that nobody typed; unlike any default, and unlike None."""


class StateStore:
    """The state file of one run, held under a lock while the `with` block lasts.

    >>> with StateStore(path) as state:
    ...     config = state.merge_flags({"plugins": ["text"], "lr": NOT_GIVEN})
    ...     if not state.is_done("profile/llama/math", digest):
    ...         state.done("profile/llama/math", digest)
    """

    def __init__(self, path: Path = STATE_FILE) -> None:
        self.path = path
        self._lock = ProcessLock(path.with_name(f"{path.name}.lock"), str(path))
        self._data: dict[str, Any] | None = None

    def __enter__(self) -> Self:
        self._lock.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._data = None
        self._lock.__exit__(kind, error, tb)

    @property
    def flags(self) -> Mapping[str, Any]:
        """Every flag that was ever given, by its own name (`lr`, not `hyperparameters.lr`)."""
        return flags_of(self._state())

    def merge_flags(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Record the flags that are given, keep the others as they were recorded, and return all of them."""
        state = merged(self._state(), given)
        if state != self._data:
            self._save(state)
        return self.flags

    @property
    def stage(self) -> int | None:
        """The last stage that has passed, if any has."""
        stage: int | None = self._state().get("stage")
        return stage

    def pass_stage(self, stage: int) -> None:
        """Record that a stage has passed."""
        self._save({**self._state(), "stage": stage})

    def is_done(self, unit: str, digest: str) -> bool:
        """Whether this unit was finished with exactly these inputs."""
        return bool(self._state().get("units", {}).get(unit) == digest)

    def done(self, unit: str, digest: str) -> None:
        """Record that a unit is finished; `digest` is the hash of everything that went into it."""
        state = self._state()
        self._save({**state, "units": {**state.get("units", {}), unit: digest}})

    def undo(self, unit: str) -> None:
        """Forget that a unit was finished, so that it runs again."""
        state = self._state()
        self._save({**state, "units": {name: d for name, d in state.get("units", {}).items() if name != unit}})

    def reset(self) -> None:
        """Forget everything: the file is deleted. Works on a broken file too."""
        self._must_hold()
        self.path.unlink(missing_ok=True)
        self._data = None

    def _state(self) -> dict[str, Any]:
        self._must_hold()
        if self._data is None:
            self._data = read_state(self.path)
        return self._data

    def _save(self, state: dict[str, Any]) -> None:
        self._must_hold()
        _validate(state, str(self.path))
        write_atomic(self.path, (json.dumps(state, indent=2, ensure_ascii=False) + "\n").encode())
        self._data = state

    def _must_hold(self) -> None:
        assert self._lock.held, "a StateStore is used inside its `with` block"


def merged(state: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The state with the flags that are given in place of those that were recorded; `state` stays as it is."""
    found = dict(deepcopy(state))
    for name, value in given.items():
        section = _section_of(name)
        if value is NOT_GIVEN:
            continue
        target = found.setdefault(section, {}) if section else found
        target[name] = _plain(value)
    _validate(found, "the command line", "give that flag another value")
    return found


def flags_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """Every flag that was ever given, by its own name (`lr`, not `hyperparameters.lr`)."""
    return MappingProxyType(_flatten(state))


def read_state(path: Path = STATE_FILE) -> dict[str, Any]:
    """The state at `path`, validated; a fresh one when there is no file."""
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return {"schema_version": SCHEMA_VERSION}
    except (OSError, UnicodeDecodeError) as error:
        raise StateError(f"{path} cannot be read ({error})", _RESET) from error
    try:
        state = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise StateError(f"{path} is not JSON: {error.msg} ({where})", _RESET) from error
    except (ValueError, RecursionError) as error:
        raise StateError(f"{path} cannot be used: {error}", _RESET) from error
    _validate(state, str(path))
    return dict(state)


def _validate(state: Any, where: str, hint: str = _RESET) -> None:
    """Raise StateError that names the first wrong key."""
    version = state.get("schema_version") if isinstance(state, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        message = f"{where} was written by a newer Nexus (schema_version {version}; this one knows {SCHEMA_VERSION})"
        raise StateError(message, "upgrade nexus-core, or delete the file to start over")
    for error in _validator().iter_errors(state):
        raise StateError(f"{where}: {_explain(error)}", hint)


@cache
def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(files("nexus_core").joinpath("state_schema.json").read_text("utf-8"))
    return schema


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator  # 80 ms: not for those who only ask for help

    return Draft202012Validator(_schema())


def _explain(error: Any) -> str:
    path = ".".join(map(str, error.absolute_path))
    if error.validator == "additionalProperties":
        known = error.schema["properties"]
        name = next(name for name in error.instance if name not in known)
        return f'unknown key "{path + "." if path else ""}{name}"{did_you_mean(name, known)}'
    if error.validator == "required":
        return f'no "schema_version" (this Nexus writes {SCHEMA_VERSION})'
    return f'key "{path}": {error.message[:120]}' if path else error.message[:120]


def _sections() -> dict[str, tuple[str, ...]]:
    """Keys that group flags, and the flags they group."""
    properties = _schema()["properties"]
    return {name: tuple(rule["properties"]) for name, rule in properties.items() if "properties" in rule}


def _section_of(flag: str) -> str | None:
    """The section that a flag is written in; None for a flag at the top level."""
    sections = _sections()
    for section, names in sections.items():
        if flag in names:
            return section
    top = [name for name in _schema()["properties"] if name not in sections and name not in _PROGRESS]
    if flag in top:
        return None
    known = [*top, *(name for names in sections.values() for name in names)]
    raise StateError(f'unknown flag "{flag}"{did_you_mean(flag, known)}', f"known: {', '.join(known)}")


def _flatten(state: Mapping[str, Any]) -> dict[str, Any]:
    sections = _sections()
    flat = {name: value for name, value in state.items() if name not in sections and name not in _PROGRESS}
    return flat | {name: value for section in sections for name, value in state.get(section, {}).items()}


def _plain(value: Any) -> Any:
    """Paths and tuples as JSON holds them."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f'the key "{key}" appears twice')
        result[key] = value
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not a number that can be used")
