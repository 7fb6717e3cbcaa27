"""Units of work: named by what goes in, done when what came out still lies there, byte for byte.

RUN/units/NAME.json says what a unit was made from and the hash of every file that it left. It is written when the unit
begins, so that a killed one is gone on with and one of other inputs starts clean, and again when it ends; after that the
state names the unit with the same digest. So a unit is done whole or not at all, and a file that was deleted or damaged
since is named and made again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from nexus_core.atomic import write_atomic

UNITS = "units"
CHUNK = 1 << 20


class Progress(Protocol):
    """Which units the state knows; see `nexus_core.state.StateStore`."""

    def is_done(self, unit: str, digest: str) -> bool: ...

    def done(self, unit: str, digest: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a unit is expected to take."""

    seconds: float = 1.0
    memory_mb: float = 0.0
    disk_mb: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class Desk:
    """What a unit works with. `fresh`: what lies there is of other inputs, or of nobody; otherwise it may go on from it."""

    fresh: bool
    say: Callable[[str], None]
    progress: Callable[..., None]


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """`work` does it and names the files and directories that it leaves; `sound` gives what is wrong beyond their bytes.
    `facts` are kept in the record, for later plans."""

    name: str
    stage: int
    digest: str
    work: Callable[[Desk], Sequence[Path]]
    estimate: Estimate = Estimate()
    sound: Callable[[], Sequence[str]] = lambda: ()
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Record:
    """What RUN/units/NAME.json holds. `outputs` None: it has begun and not ended."""

    digest: str
    outputs: Mapping[str, str] | None
    seconds: float
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ledger:
    """The records of a run, beside its state."""

    run: Path
    state: Progress

    def record(self, name: str) -> Record | None:
        """None where there is none, or one that cannot be read: then the unit is done again."""
        try:
            raw = json.loads(self._path(name).read_bytes())
            outputs = None if raw["outputs"] is None else {str(k): str(v) for k, v in raw["outputs"].items()}
            return Record(str(raw["digest"]), outputs, float(raw["seconds"]), dict(raw["facts"]))
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def done(self, unit: Unit) -> bool:
        """Whether nothing is to be done."""
        return self.ended(unit.name, unit.digest) and not self.damage(unit)

    def ended(self, name: str, digest: str) -> bool:
        """Whether it was finished with exactly these inputs, whatever became of its files since."""
        found = self.record(name)
        finished = found is not None and found.digest == digest and found.outputs is not None
        return finished and self.state.is_done(name, digest)

    def finished(self, name: str) -> bool:
        """Whether it was finished, with whatever inputs."""
        found = self.record(name)
        return found is not None and self.ended(name, found.digest)

    def damage(self, unit: Unit) -> list[str]:
        """What is wrong with what a finished unit left."""
        found = self.record(unit.name)
        outputs = {} if found is None or found.outputs is None else found.outputs
        wrong = [problem for path, digest in outputs.items() if (problem := _problem(self.run / path, digest))]
        return [*wrong, *unit.sound()]

    def damaged_files(self, name: str) -> list[Path]:
        """The files of a finished unit that are there and are not as it left them."""
        found = self.record(name)
        outputs = {} if found is None or found.outputs is None else found.outputs
        paths = {self.run / path: digest for path, digest in outputs.items()}
        return [path for path, digest in paths.items() if path.is_file() and file_digest(path) != digest]

    def begin(self, unit: Unit) -> bool:
        """Write down that it begins; returns whether it begins from nothing."""
        found = self.record(unit.name)
        fresh = found is None or found.digest != unit.digest
        if fresh:
            self._write(unit, None, 0.0)
        return fresh

    def end(self, unit: Unit, outputs: Iterable[Path], seconds: float) -> None:
        """Write down what it left, and then that it is done."""
        files = sorted({file for output in outputs for file in _files(output)})
        self._write(unit, {self._name(file): file_digest(file) for file in files}, seconds)
        self.state.done(unit.name, unit.digest)

    def _write(self, unit: Unit, outputs: Mapping[str, str] | None, seconds: float) -> None:
        path = self._path(unit.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = {
            "unit": unit.name,
            "digest": unit.digest,
            "outputs": outputs,
            "seconds": round(seconds, 3),
            "facts": dict(unit.facts),
        }
        write_atomic(path, (json.dumps(raw, indent=1, ensure_ascii=False) + "\n").encode())

    def _path(self, name: str) -> Path:
        return self.run / UNITS / f"{name}.json"

    def _name(self, file: Path) -> str:
        """Relative to the run; a bundle may lie elsewhere, and then its whole path is kept (joining leaves it as it is)."""
        absolute, run = file.resolve(), self.run.resolve()
        return (absolute.relative_to(run) if absolute.is_relative_to(run) else absolute).as_posix()


def digest_of(**inputs: Any) -> str:
    """Of everything that goes in, by name."""
    return hashlib.sha256(json.dumps(plain(inputs), sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def _problem(path: Path, digest: str) -> str:
    try:
        return "" if file_digest(path) == digest else f"{path} was changed since it was written"
    except FileNotFoundError:
        return f"{path} is gone"
    except OSError as error:
        return f"{path} cannot be read ({error.strerror})"


def _files(output: Path) -> list[Path]:
    return [path for path in output.rglob("*") if path.is_file()] if output.is_dir() else [output]


def plain(value: Any) -> Any:
    """As JSON holds it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value) if isinstance(value, set | frozenset) else value)]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
