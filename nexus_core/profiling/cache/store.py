"""The signal cache: a directory of content-addressed units, each an `.npz` and the JSON entry that vouches for it.

A unit is one teacher, one capability and one chunk of samples, named by the hash of everything that decides its content.
The entry is written after the file, both by rename, so a unit exists whole or not at all: a killed writer leaves at
most a file without an entry, which the next run writes again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nexus_core.atomic import write_atomic
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache.signal import TeacherSignal
from nexus_core.profiling.cache.unit import UnitReader, unit_bytes

FORMAT = 1
_IDENTITY = ("teacher", "weights", "capability", "split", "samples", "settings")


@dataclass(frozen=True, slots=True)
class UnitKey:
    """What decides a unit's content. `weights` is the hash of the teacher's weights, `samples` are digests in order,
    `settings` is everything else that matters (sample options, codec rule, profile hash), as JSON holds it."""

    teacher: str
    weights: str
    capability: str
    split: str
    samples: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """The unit's name."""
        try:
            content = json.dumps([FORMAT, asdict(self)], sort_keys=True, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise UsageError(
                f"the settings of a unit are not JSON ({error})", "pass numbers, strings, lists"
            ) from error
        return hashlib.sha256(content.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Entry:
    """A unit's line in the manifest."""

    key: UnitKey
    sha256: str
    nbytes: int
    sizes: Mapping[str, int]  # tokens, and bytes of logits, tail shapes, coefficients and attention summaries


class SignalCache:
    """Teacher signals on disk.

    >>> cache = SignalCache(run / "signals", {"zoo-reasoning": weights_hash})
    >>> if not cache.has(key):
    ...     cache.write(key, [make_signal(sample) for sample in chunk])
    >>> for signal in cache.iterate(seed=42):
    ...     distributions = signal.top_k()

    `weights`, where given, says which weights each teacher must have: a unit that other weights left under the same
    name is refused by name.
    """

    def __init__(self, directory: Path, weights: Mapping[str, str] | None = None) -> None:
        self.directory = directory
        self._weights = dict(weights or {})

    def has(self, key: UnitKey) -> bool:
        """Whether this unit is finished and its file is as large as when it was written; `verify` reads the bytes."""
        path = self._path(key.digest)
        if not self._entry_path(key.digest).exists():
            return False
        entry = self._entry(key.digest)
        if not path.exists() or path.stat().st_size != entry.nbytes:
            raise DataError(
                f"{path} is missing or cut short", f"delete {self._entry_path(key.digest)} and build the unit again"
            )
        return True

    def write(self, key: UnitKey, signals: Sequence[TeacherSignal]) -> Entry:
        """Store the signals of all of `key.samples`, in that order."""
        from filelock import FileLock

        self._check_teacher(key)
        found = tuple(signal.digest for signal in signals)
        if found != key.samples or not found:
            raise UsageError(
                f"a unit of {len(key.samples)} samples got signals of {len(found)} others or in another order",
                "write exactly one signal for each sample of the key, at least one, in its order",
            )
        content = unit_bytes(key.digest, signals)
        entry = Entry(key, hashlib.sha256(content).hexdigest(), len(content), _sizes(signals))
        self.directory.mkdir(parents=True, exist_ok=True)
        with FileLock(self.directory / ".lock"):  # two writers of one unit would share a temporary name
            write_atomic(self._path(key.digest), content)
            write_atomic(self._entry_path(key.digest), _entry_bytes(entry))
        return entry

    def entries(self, capability: str | None = None, teacher: str | None = None) -> list[Entry]:
        """The finished units, in the order of their names; an error where two teachers share a name."""
        found = [self._entry(path.stem) for path in sorted(self.directory.glob("*.json"))]
        found = [e for e in found if capability in (None, e.key.capability) and teacher in (None, e.key.teacher)]
        seen: dict[str, UnitKey] = {}
        for entry in found:
            self._check_teacher(entry.key)
            other = seen.setdefault(entry.key.teacher, entry.key)
            if other.weights != entry.key.weights:
                raise DataError(
                    f"{self.directory} holds units of two different teachers called {entry.key.teacher}: "
                    f"weights {other.weights[:12]} ({other.digest[:12]}) and {entry.key.weights[:12]} "
                    f"({entry.key.digest[:12]})",
                    "delete the units of the one that is not yours, or use another directory",
                )
        return found

    def read(self, entry: Entry) -> UnitReader:
        """One unit, its bytes checked against the manifest."""
        path = self._path(entry.key.digest)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path} cannot be read ({error.strerror})", "build this unit again") from error
        if hashlib.sha256(content).hexdigest() != entry.sha256:
            raise DataError(
                f"{path} is corrupt: its SHA-256 is not the manifest's", "delete both and build the unit again"
            )
        reader = UnitReader(content, str(path))
        if reader.key != entry.key.digest or reader.digests != entry.key.samples:
            raise DataError(f"{path} holds another unit, {reader.key[:12]}", "delete both and build the unit again")
        return reader

    def iterate(
        self, capability: str | None = None, teacher: str | None = None, seed: int = 42, open_units: int = 4
    ) -> Iterator[TeacherSignal]:
        """Every sample once, shuffled by `seed` alone, with `open_units` units in memory at a time.

        Samples of the open units are mixed, so a batch is not of one chunk; the order over all is not uniform.
        """
        entries = self.entries(capability, teacher)
        generator = np.random.default_rng(seed)
        waiting = [entries[i] for i in generator.permutation(len(entries))]
        pool: list[tuple[UnitReader, list[int]]] = []
        while waiting or pool:
            while waiting and len(pool) < max(open_units, 1):
                reader = self.read(waiting.pop())
                pool.append((reader, generator.permutation(len(reader)).tolist()))
            left = np.array([len(order) for _, order in pool])
            place = int(generator.choice(len(pool), p=left / left.sum()))
            reader, order = pool[place]
            signal = reader.sample(order.pop())
            if not order:
                del pool[place]
            del reader, order  # a unit must die with its last sample, not when the next is drawn
            yield signal

    def verify(self) -> list[str]:
        """Every problem in one line that names its file; nothing when each unit is whole and in its place."""
        problems: list[str] = []
        for path in sorted(self.directory.glob("*.json")):
            try:
                reader = self.read(self._entry(path.stem))
                for i in range(len(reader)):
                    reader.sample(i).top_k()
            except DataError as error:
                named = str(self.directory) in error.message
                problems.append(error.message if named else f"{path.with_suffix('.npz')}: {error.message}")
        try:
            self.entries()
        except DataError as error:
            if error.message not in problems:
                problems.append(error.message)
        for path in sorted(self.directory.iterdir() if self.directory.exists() else ()):
            if path.suffix == ".npz" and not path.name.startswith(".") and not path.with_suffix(".json").exists():
                problems.append(f"{path} has no manifest entry: its writer was stopped, or it is foreign")
            elif path.suffix not in (".npz", ".json") and not path.name.startswith("."):
                problems.append(f"{path} is foreign: a signal cache has no such file")
        return problems

    def sizes(self) -> dict[tuple[str, str], dict[str, int]]:
        """By teacher and capability: units, samples, tokens, bytes in all, and bytes of logits, tails, coefficients."""
        totals: dict[tuple[str, str], dict[str, int]] = {}
        for entry in self.entries():
            total = totals.setdefault((entry.key.teacher, entry.key.capability), {})
            row = {"units": 1, "samples": len(entry.key.samples), "bytes": entry.nbytes, **entry.sizes}
            for name, value in row.items():
                total[name] = total.get(name, 0) + value
        return totals

    def _check_teacher(self, key: UnitKey) -> None:
        expected = self._weights.get(key.teacher, key.weights)
        if expected != key.weights:
            raise DataError(
                f"unit {key.digest[:12]} in {self.directory} is of another teacher called {key.teacher}: its weights are "
                f"{key.weights[:12]}, expected {expected[:12]}",
                "delete that unit, or give the other checkpoint a name of its own in registry.yaml",
            )

    def _path(self, digest: str) -> Path:
        return self.directory / f"{digest}.npz"

    def _entry_path(self, digest: str) -> Path:
        return self.directory / f"{digest}.json"

    def _entry(self, digest: str) -> Entry:
        path = self._entry_path(digest)
        try:
            row = json.loads(path.read_bytes())
            key = UnitKey(**{name: row[name] for name in _IDENTITY} | {"samples": tuple(row["samples"])})
            entry = Entry(key, str(row["sha256"]), int(row["nbytes"]), {k: int(v) for k, v in row["sizes"].items()})
            found = key.digest
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(
                f"{path} is not a manifest entry ({error!r})", "delete it and build the unit again"
            ) from error
        if found != digest:
            raise DataError(f"{path} is the entry of another unit, {found[:12]}", "delete it and build the unit again")
        return entry


def _entry_bytes(entry: Entry) -> bytes:
    row = {**asdict(entry.key), "sha256": entry.sha256, "nbytes": entry.nbytes, "sizes": dict(entry.sizes)}
    return (json.dumps(row, indent=1, ensure_ascii=False) + "\n").encode()


def _sizes(signals: Sequence[TeacherSignal]) -> dict[str, int]:
    codec = signals[0].codec
    return {
        "tokens": sum(len(signal.token_ids) for signal in signals),
        "logit_bytes": sum(signal.logits.nbytes for signal in signals if signal.logits is not None),
        "tail_bytes": 0 if codec is None or codec.shape is None else codec.shape.nbytes,
        "coefficient_bytes": sum(
            rows.values.nbytes + (0 if rows.scales is None else rows.scales.nbytes)
            for signal in signals
            for rows in signal.coefficients.values()
        ),
        "attention_bytes": sum(summary.nbytes for signal in signals for summary in signal.attention.values()),
    }
