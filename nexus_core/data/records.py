"""The frozen values of the data loader: what it gives, where it stands, how it reads."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from nexus_core.errors import DataError

MIB = 1 << 20
GIB = 1 << 30


class Record(NamedTuple):
    """One item of a dataset, immutable.

    `source` names the file (`folder/train.jsonl`, or `folder/a.zip!inner/train.jsonl` inside an archive) and `index`
    is its number within that source, counted from 0: together they identify a record whatever the order or the seed.
    `fields` is the whole row as it was read. A named tuple and not a dataclass, because a stream of small rows would
    otherwise spend half its time in `__init__`.
    """

    input: str
    target: str
    fields: Mapping[str, Any]
    source: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs on a record


@dataclass(frozen=True, slots=True)
class Position:
    """A place in a stream: `json.dumps(dataclasses.asdict(position))`, and `Position.of(json.loads(text))` back.

    A stream is a sequence of blocks; a block starts at `offset` (byte), `row` and `line` of the `file`-th file, and
    `taken` of its records were already handed out. `dataset` and `size` notice that the data changed meanwhile.
    """

    file: int = 0
    row: int = 0
    line: int = 0
    offset: int = 0
    block: int = 0
    taken: int = 0
    emitted: int = 0
    size: int = -1
    order: str = ""
    dataset: str = ""

    @classmethod
    def of(cls, value: Position | Mapping[str, Any]) -> Position:
        """A position from its JSON form; `DataError` when it is not one."""
        if isinstance(value, Position):
            return value
        known = {f.name: type(f.default) for f in fields(cls)}
        wrong = [key for key, kind in known.items() if type(value.get(key)) is not kind]
        wrong += [key for key in value if key not in known]
        if wrong:
            raise DataError(
                f"not a position of a data loader: {', '.join(sorted(wrong))} missing, unknown or of the wrong type",
                "pass what `loader.position` gave, unchanged; or leave `position` out to start from the beginning",
            )
        return cls(**value)


@dataclass(frozen=True, slots=True)
class LoaderOptions:
    """How to read. The defaults suit a user's own folders.

    keys            names of the input and the target field, where they are not among the ones understood
    modality        "text", "audio", "image" or "video": only that is wanted, anything else is skipped and counted
    bad_rows        "raise" at the first row that cannot be used, or "skip" and count it
    reservoir       how many representative samples are kept
    stratum         a field; every value of it gets a fair part of the representative samples, so that rare ones stay
    shuffle_records, shuffle_bytes   bounds of a block, within which a seeded order shuffles
    max_line_bytes  the longest line, JSON element, table cell or in-memory archive member
    max_ratio, max_expanded_bytes    where compressed data counts as a bomb: growth factor, and size of one member
    tensorboard     read TensorBoard event files, too
    """

    keys: tuple[str, str] | None = None
    modality: str | None = None
    bad_rows: str = "raise"
    reservoir: int = 200
    stratum: str | None = None
    shuffle_records: int = 2048
    shuffle_bytes: int = 16 * MIB
    max_line_bytes: int = 64 * MIB
    max_ratio: int = 200
    max_expanded_bytes: int = 256 * GIB
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if self.bad_rows not in ("raise", "skip"):
            raise DataError(f"bad_rows={self.bad_rows!r} is unknown", 'use "raise" or "skip"')
        if self.modality not in (None, "text", "audio", "image", "video"):
            raise DataError(f"modality={self.modality!r} is unknown", "use text, audio, image, video or None")
        if self.keys is not None and (isinstance(self.keys, str) or len(self.keys) != 2):
            raise DataError(f"keys={self.keys!r} is not a pair", 'name two fields: keys=("problem", "solution")')
        for name in ("shuffle_records", "shuffle_bytes", "max_line_bytes", "max_ratio", "max_expanded_bytes"):
            if getattr(self, name) < 1:
                raise DataError(f"{name}={getattr(self, name)} is not positive", "use a number of at least 1")
        if self.reservoir < 0:
            raise DataError(f"reservoir={self.reservoir} is negative", "use 0 to keep no representative samples")


@dataclass(frozen=True, slots=True)
class Start:
    """Where a reader begins: 0 everywhere, or at a chunk's `offset`, `row` and `line` that it once gave."""

    offset: int = 0
    row: int = 0
    line: int = 0


@dataclass(frozen=True, slots=True)
class Context:
    """What a reader is given beside its file. It adds to `skipped`, and to nothing else."""

    options: LoaderOptions
    skipped: Counter[str] = field(default_factory=Counter)
    start: Start = Start()
    allow_uncensored: bool = False


@dataclass(slots=True)
class Chunk:
    """A bounded run of rows from one source. Its bounds depend on the file alone, so that a stream can be resumed.

    `offset` and `line` say where it began in a file that can be entered there (else 0: the file is read again up to
    this chunk). `lines` are the line numbers of the rows, for error messages; `mapped` rows already have input and
    target, and need no key to be guessed.
    """

    source: str
    rows: list[Any]
    first: int
    size: int
    offset: int = 0
    line: int = 0
    lines: Sequence[int] | None = None
    mapped: bool = False

    def place(self, i: int) -> str:
        """Where row `i` is, for a message."""
        if self.lines is not None:
            return f"{self.source}:{self.lines[i]}"
        return f"{self.source}, row {self.first + i}"
