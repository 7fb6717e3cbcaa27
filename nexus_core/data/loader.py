"""`StreamingDataLoader`: a dataset of any size as a stream of records, in constant memory.

Order. Without a seed: files in sorted order, rows as they stand. With a seed: files in a permuted order, and records
shuffled within blocks of at most `shuffle_records` records or about `shuffle_bytes` bytes; a block spans small files.
A block needs nothing from the one before it, which is what makes a position small: where the current block starts, and
how many of its records were handed out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain, islice
from operator import length_hint
from pathlib import Path
from typing import Any, NamedTuple

from nexus_core.data.blob import Blob
from nexus_core.data.discover import discover
from nexus_core.data.fileset import FileSet, because
from nexus_core.data.kinds import reader_key
from nexus_core.data.readers import READERS
from nexus_core.data.records import Chunk, Context, LoaderOptions, Position, Record, Start
from nexus_core.data.reservoir import Reservoir, Sampler, StratifiedReservoir
from nexus_core.data.rows import RowMapper
from nexus_core.errors import DataError

DEFAULT_SEED = 42


class _Place(NamedTuple):
    """Where a chunk begins: the number of its file in the order of files, the file's size, and the place in the file."""

    file: int
    size: int
    row: int
    line: int
    offset: int


class _Block(NamedTuple):
    """Records to hand out, in order; `before` more of this block went to an earlier run, `emitted` came before it."""

    place: _Place
    number: int
    emitted: int
    before: int
    records: list[Record]


class StreamingDataLoader:
    """Iterate over records, or `batches()`. Each iteration starts anew, at `position` where one was given; the properties
    tell of the latest one.

    source            a file, a folder, an archive, or a URL that fsspec understands; used exactly as given
    seed              None for the order of the files, a number for a shuffled order that depends on it alone
    batch_size        records per list in `batches()`; the last list may be shorter
    position          where to go on: `loader.position` of an earlier run, or its JSON form
    allow_uncensored  read data that is marked as uncensored, too
    options           how to read: see `LoaderOptions`
    """

    def __init__(
        self,
        source: str | Path,
        *,
        seed: int | None = None,
        batch_size: int = 1,
        position: Position | Mapping[str, Any] | None = None,
        allow_uncensored: bool = False,
        options: LoaderOptions | None = None,
    ) -> None:
        if batch_size < 1:
            raise DataError(f"batch_size={batch_size} is not positive", "use a number of at least 1")
        self._options = options or LoaderOptions()
        self._seed = seed
        self._batch_size = batch_size
        self._allow_uncensored = allow_uncensored
        self._files: FileSet = discover(str(source), self._options, allow_uncensored)
        blank = Position(order=self._order_name(), dataset=self._files.digest)
        self._begin = blank if position is None else self._checked(Position.of(position), blank)
        self._rewind()

    def __iter__(self) -> Iterator[Record]:
        self._rewind()
        return chain.from_iterable(self._handed_out())  # no Python code runs per record, only per block

    def _rewind(self) -> None:
        self._skipped = Counter(self._files.skipped)
        self._mapper = RowMapper(self._options, self._skipped, self._allow_uncensored)
        self._sampler = Sampler(self._new_reservoir())
        at = self._begin
        place = _Place(at.file, at.size, at.row, at.line, at.offset)
        self._enter(_Block(place, at.block, at.emitted, at.taken, []))

    def _handed_out(self) -> Iterator[Iterator[Record]]:
        """An iterator over each block: the consumer advances it, and `position` asks it how far."""
        seen = self._begin.emitted + self._begin.taken
        for block in self._blocks():
            self._sampler.finish(self._block.records)
            yield self._enter(block)
            seen += len(block.records)
        if not seen:
            why = f"{because(self._skipped)}{self._mapper.first_bad}"
            raise DataError(f"{self._files.root}: no records{why}", "check that the files hold data")

    def _enter(self, block: _Block) -> Iterator[Record]:
        self._block, self._ahead = block, iter(block.records)
        return self._ahead

    @property
    def _taken(self) -> int:
        """How many records of the current block were handed out in this iteration."""
        return len(self._block.records) - length_hint(self._ahead)

    def batches(self) -> Iterator[list[Record]]:
        """Lists of `batch_size` records."""
        records = iter(self)
        while batch := list(islice(records, self._batch_size)):
            yield batch

    @property
    def position(self) -> Position:
        """Right behind the last record handed out. `json.dumps(dataclasses.asdict(position))` is its JSON form."""
        block = self._block
        place, taken = block.place._asdict(), block.before + self._taken
        return replace(self._begin, **place, block=block.number, emitted=block.emitted, taken=taken)

    @property
    def skipped(self) -> dict[str, int]:
        """How many files and rows were left out so far, by reason."""
        return dict(self._skipped)

    @property
    def representative_samples(self) -> list[Record]:
        """A uniform sample of the records handed out in this iteration, fair to every stratum where one is named."""
        self._sampler.take(self._block.records, self._taken)
        return self._sampler.records

    def _new_reservoir(self) -> Reservoir | StratifiedReservoir:
        seed = DEFAULT_SEED if self._seed is None else self._seed
        if self._options.stratum is None:
            return Reservoir(self._options.reservoir, seed)
        return StratifiedReservoir(self._options.reservoir, seed, self._options.stratum)

    def _order_name(self) -> str:
        """Everything beside the data that decides which record comes when: a position is good for the same only."""
        options = self._options
        rows = f"bad rows {options.bad_rows}, uncensored {self._allow_uncensored}, keys {options.keys}"
        if self._seed is None:
            return f"file order, {rows}"
        return f"seed {self._seed}, blocks {options.shuffle_records}/{options.shuffle_bytes}, {rows}"

    def _checked(self, position: Position, blank: Position) -> Position:
        for what, theirs, ours in (
            ("order", position.order, blank.order),
            ("list of files", position.dataset, blank.dataset),
        ):
            if theirs != ours:
                raise DataError(
                    f"{self._files.root}: the position belongs to another {what} ({theirs}; this loader has {ours})",
                    "use the same seed, options and data as the run that is resumed, or start without a position",
                )
        if not 0 <= position.file < len(self._files.names):
            raise DataError(f"the position's file number {position.file} does not exist", "start without a position")
        return position

    def _ordinals(self) -> list[int]:
        """The order of the files."""
        order = list(range(len(self._files.names)))
        if self._seed is not None:
            random.Random(f"nexus-files:{self._seed}").shuffle(order)
        return order

    def _blocks(self) -> Iterator[_Block]:
        """Blocks from where the iteration begins."""
        number, emitted, before = self._begin.block, self._begin.emitted, self._begin.taken
        records, size, start = list[Record](), 0, None
        for place, chunk in self._chunks():
            start = start or place  # also when all rows of this chunk are left out: the block's bounds count its size
            records += self._mapper.records(chunk)
            size += chunk.size
            full = len(records) >= self._options.shuffle_records or size >= self._options.shuffle_bytes
            if records and (full or self._seed is None):
                yield _Block(start, number, emitted, before, self._shuffled(records, number)[before:])
                number, emitted, before = number + 1, emitted + len(records), 0
                records, size, start = [], 0, None
        if records and start:
            yield _Block(start, number, emitted, before, self._shuffled(records, number)[before:])

    def _shuffled(self, records: list[Record], block: int) -> list[Record]:
        if self._seed is None:
            return records
        draw = random.Random(f"nexus-block:{self._seed}:{block}").random
        return sorted(records, key=lambda _: draw())  # twice as fast as Random.shuffle

    def _chunks(self) -> Iterator[tuple[_Place, Chunk]]:
        """Chunks from where the iteration begins, each with its place."""
        begin = self._begin
        order = self._ordinals()
        for file in range(begin.file, len(order)):
            blob = self._files.opener(self._files.names[order[file]])
            if file == begin.file and begin.size not in (-1, blob.size):
                raise DataError(
                    f"{blob.name}: changed since the position was taken ({begin.size} bytes then, {blob.size} now)",
                    "start without a position",
                )
            yield from self._file_chunks(blob, file, begin if file == begin.file else Position())

    def _file_chunks(self, blob: Blob, file: int, resumed: Position) -> Iterator[tuple[_Place, Chunk]]:
        """The chunks of one file from `resumed` on. Where it cannot be entered there, it is read again up to there."""
        start = Start(resumed.offset, resumed.row, resumed.line) if resumed.offset else Start()
        context = Context(self._options, self._skipped, start, self._allow_uncensored)
        row = start.row
        for chunk in READERS[reader_key(blob.name)](blob, context):
            if row >= resumed.row:
                yield _Place(file, blob.size, row, chunk.line, chunk.offset), chunk
            row += len(chunk.rows)
