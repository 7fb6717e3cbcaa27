"""What the process of the student is told, and what it tells. Questions go in and answers come out: no reference answer
and no score is ever there, so the student's process has nothing to say about how good it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nexus_core.errors import DataError
from nexus_core.gate.guard import Limits
from nexus_core.types import GenerateOptions, Sample


@dataclass(frozen=True, slots=True)
class Task:
    """Questions for one adapter (None: the plain backbone). Those at `alone` are asked once more, one at a time."""

    name: str
    capability: str | None
    prompts: tuple[str, ...]
    options: GenerateOptions
    alone: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """`search` is where Python looks for modules; `probes` are the places that must not open."""

    subject: Path
    device: str
    tasks: tuple[Task, ...]
    limits: Limits
    probes: Mapping[str, str]
    search: tuple[str, ...]
    result: Path


@dataclass(frozen=True, slots=True)
class Alone:
    """One answer that was asked for by itself, and what it took."""

    index: int
    output: str
    tokens: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Said:
    """What came of one task. `truncated` prompts were longer than the context."""

    outputs: tuple[str, ...]
    truncated: int
    alone: tuple[Alone, ...]


@dataclass(frozen=True, slots=True)
class Testimony:
    """All that the process told in the end. `opened` is, by probe, what became of an attempt before the guard stood."""

    said: Mapping[str, Said]
    opened: Mapping[str, str]
    modules: tuple[str, ...]


def task(name: str, capability: str | None, samples: Sequence[Sample], options: GenerateOptions) -> Task:
    """The questions of these samples. What is not text cannot be asked yet, and is an error rather than left out."""
    if strangers := [sample.id for sample in samples if sample.inputs]:
        raise DataError(
            f"{name}: sample {strangers[0]} asks with more than text ({', '.join(samples[0].inputs)})",
            "the gate asks text; a capability of another tower needs a student that hears or sees",
        )
    return Task(name, capability, tuple(sample.prompt for sample in samples), options)


def write_job(job: Job, path: Path) -> None:
    path.write_text(json.dumps(asdict(job), default=str), encoding="utf-8")


def read_job(path: Path) -> Job:
    """What `write_job` wrote: both ends are of this version, in one run of the gate."""
    raw = json.loads(path.read_bytes())
    tasks = tuple(
        Task(
            **{
                **one,
                "prompts": tuple(one["prompts"]),
                "options": GenerateOptions(**{**one["options"], "stop": tuple(one["options"]["stop"])}),
                "alone": tuple(one["alone"]),
            }
        )
        for one in raw["tasks"]
    )
    paths = {name: Path(raw[name]) for name in ("subject", "result")}
    return Job(**{**raw, **paths, "tasks": tasks, "limits": Limits(**raw["limits"]), "search": tuple(raw["search"])})


def read_testimony(path: Path) -> Testimony:
    """Written by a process that has run foreign code: anything may stand in it, and what is not a testimony is an error."""
    try:
        raw = json.loads(path.read_bytes())
        said = {name: _said(one) for name, one in raw["said"].items()}
        opened = {_text(name): _text(what) for name, what in raw["opened"].items()}
        return Testimony(said, opened, tuple(_text(name) for name in raw["modules"]))
    except FileNotFoundError:
        raise DataError("it left no answers", "run the command again with --debug") from None
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"what it left cannot be read: {type(error).__name__}: {error}", "no part of it counts"
        ) from error


def _said(raw: Any) -> Said:
    alone = tuple(
        Alone(int(a["index"]), _text(a["output"]), int(a["tokens"]), float(a["seconds"])) for a in raw["alone"]
    )
    return Said(tuple(_text(output) for output in raw["outputs"]), int(raw["truncated"]), alone)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{type(value).__name__} where text was expected")
    return value
