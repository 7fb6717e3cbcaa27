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
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.discover import FileSet, because, discover
from nexus_core.data.kinds import reader_key
from nexus_core.data.readers import READERS
from nexus_core.data.records import Chunk, Context, LoaderOptions, Position, Record, Start
from nexus_core.data.reservoir import Reservoir, StratifiedReservoir
from nexus_core.data.rows import RowMapper
from nexus_core.errors import DataError

DEFAULT_SEED = 42


@dataclass(frozen=True, slots=True)
class _Block:
    """Records in the order in which they are handed out, and where the block starts."""

    start: Position
    records: list[Record]


class StreamingDataLoader:
    """Iterate over records, or `batches()`. Each iteration starts anew, at `position` where one was given.

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
        self._skipped = Counter(self._files.skipped)
        self._reservoir = self._new_reservoir()
        self._block = _Block(self._begin, [])
        self._taken = self._begin.taken

    def __iter__(self) -> Iterator[Record]:
        self._skipped = Counter(self._files.skipped)
        self._reservoir = self._new_reservoir()
        self._block, self._taken = _Block(self._begin, []), self._begin.taken
        return self._stream()

    def _stream(self) -> Iterator[Record]:
        reservoir = self._reservoir
        seen, next_pick = 0, 1 if self._options.reservoir else -1
        taken = self._begin.taken
        for block in self._blocks():
            self._block, self._taken = block, taken
            for self._taken, record in enumerate(islice(block.records, taken, None), taken + 1):
                seen += 1
                if seen == next_pick:
                    next_pick = reservoir.add(seen, record)
                yield record
            taken = 0
        if not seen and self._begin.emitted + self._begin.taken == 0:
            raise DataError(f"{self._files.root}: no records{because(self._skipped)}", "check that the files hold data")

    def batches(self) -> Iterator[list[Record]]:
        """Lists of `batch_size` records."""
        records = iter(self)
        while batch := list(islice(records, self._batch_size)):
            yield batch

    @property
    def position(self) -> Position:
        """Right behind the last record handed out. `json.dumps(dataclasses.asdict(position))` is its JSON form."""
        return replace(self._block.start, taken=self._taken)

    @property
    def skipped(self) -> dict[str, int]:
        """How many files and rows were left out so far, by reason."""
        return dict(self._skipped)

    @property
    def representative_samples(self) -> list[Record]:
        """A uniform sample of the records handed out in this iteration, fair to every stratum where one is named."""
        return self._reservoir.records

    def _new_reservoir(self) -> Reservoir | StratifiedReservoir:
        seed = DEFAULT_SEED if self._seed is None else self._seed
        if self._options.stratum is None:
            return Reservoir(self._options.reservoir, seed)
        return StratifiedReservoir(self._options.reservoir, seed, self._options.stratum)

    def _order_name(self) -> str:
        if self._seed is None:
            return "file order"
        return f"seed {self._seed}, blocks {self._options.shuffle_records}/{self._options.shuffle_bytes}"

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
        start, records, size = self._begin, list[Record](), 0
        mapper = RowMapper(self._options, self._skipped, self._allow_uncensored)
        for at, chunk in self._chunks():
            if not records:
                start = replace(at, block=start.block, emitted=start.emitted)
            records.extend(mapper.records(chunk))
            size += chunk.size
            full = len(records) >= self._options.shuffle_records or size >= self._options.shuffle_bytes
            if records and (full or self._seed is None):
                yield _Block(start, self._shuffled(records, start.block))
                start = replace(start, block=start.block + 1, emitted=start.emitted + len(records))
                records, size = [], 0
        if records:
            yield _Block(start, self._shuffled(records, start.block))

    def _shuffled(self, records: list[Record], block: int) -> list[Record]:
        if self._seed is None:
            return records
        draw = random.Random(f"nexus-block:{self._seed}:{block}").random
        keys = [draw() for _ in records]
        return [records[i] for i in sorted(range(len(records)), key=keys.__getitem__)]

    def _chunks(self) -> Iterator[tuple[Position, Chunk]]:
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
            resumed = begin if file == begin.file else Position()
            yield from self._file_chunks(blob, replace(begin, file=file, size=blob.size, taken=0), resumed)

    def _file_chunks(self, blob: Blob, at: Position, resumed: Position) -> Iterator[tuple[Position, Chunk]]:
        """The chunks of one file from `resumed` on. Where it cannot be entered there, it is read again up to there."""
        start = Start(resumed.offset, resumed.row, resumed.line) if resumed.offset else Start()
        context = Context(self._options, self._skipped, start, self._allow_uncensored)
        row = start.row
        for chunk in READERS[reader_key(blob.name)](blob, context):
            if row >= resumed.row:
                yield replace(at, row=row, line=chunk.line, offset=chunk.offset), chunk
            row += len(chunk.rows)
