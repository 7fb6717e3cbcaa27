"""A small uniform sample of a long stream, in constant memory."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_core.data.records import MIB, Record
from nexus_core.errors import DataError

BUDGET = 256 * MIB  # 200 records of a long-context set are 200 MB; beyond it fewer are kept, still uniformly
MAX_STRATA = 64


class Reservoir:
    """The first `size` records, then record i replaces a random one of them with probability `size`/i.

    The number of records to pass over is drawn at once (Li 1994, algorithm L), which has the same distribution as one
    draw per record and costs nothing for a record that is passed over. `_bar` is the largest of the `size` smallest of
    i uniform numbers, one for each record so far: a record is taken when its own would be smaller.
    """

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(f"nexus-reservoir:{seed}")
        self._kept: list[Record] = []
        self._bytes = 0
        self._bar = 1.0

    def add(self, i: int, record: Record) -> int:
        """Take record number `i` (from 1), the one that was asked for; give the number of the next one to take."""
        if not self._size:
            return sys.maxsize
        if i <= self._size:
            self._kept.append(record)
        else:
            slot = self._random.randrange(self._size)
            self._bytes -= _weight(self._kept[slot])
            self._kept[slot] = record
        self._bytes += _weight(record)
        if i >= self._size:
            self._bar *= self._uniform() ** (1 / self._size)
        while self._bytes > BUDGET and len(self._kept) > 1:
            self._shrink(i)
        if i < self._size:
            return i + 1
        return i + 1 + int(math.log(self._uniform()) / math.log1p(-self._bar))

    def _shrink(self, i: int) -> None:
        """Give up a random record: what is left is a uniform sample of a smaller size."""
        self._bytes -= _weight(self._kept.pop(self._random.randrange(len(self._kept))))
        self._size = len(self._kept)
        self._bar = self._random.betavariate(self._size, i - self._size + 1)

    def _uniform(self) -> float:
        return 1.0 - self._random.random()  # in (0, 1]: its logarithm exists

    @property
    def records(self) -> list[Record]:
        """The sample so far."""
        return list(self._kept)


class StratifiedReservoir:
    """One reservoir per value of a field. Every stratum gets an equal part; what a rare one cannot fill, others get."""

    def __init__(self, size: int, seed: int, field: str) -> None:
        self._size, self._seed, self._field = size, seed, field
        self._strata: dict[str, tuple[Reservoir, list[int]]] = {}

    def add(self, i: int, record: Record) -> int:
        """Take record number `i`; every record is wanted."""
        if self._field not in record.fields:
            raise DataError(
                f"{record.source}, record {record.index}: no field {self._field!r} to stratify by;"
                f" keys found: {', '.join(map(str, record.fields))}",
                "name a field that every record has in LoaderOptions(stratum=...)",
            )
        name = str(record.fields[self._field])
        if name not in self._strata:
            if len(self._strata) == MAX_STRATA:
                raise DataError(
                    f"the field {self._field!r} has more than {MAX_STRATA} different values",
                    "stratify by a field with few values, such as a difficulty",
                )
            self._strata[name] = (Reservoir(self._size, _seed_of(self._seed, name)), [0, 1])
        reservoir, state = self._strata[name]
        state[0] += 1
        if state[0] >= state[1]:
            state[1] = reservoir.add(state[0], record)
        return i + 1

    @property
    def records(self) -> list[Record]:
        """The sample so far: fair parts, the rarest stratum first."""
        kept: list[Record] = []
        by_rarity = sorted(self._strata.items(), key=lambda item: (item[1][1][0], item[0]))
        for n, (name, (reservoir, _)) in enumerate(by_rarity):
            part = (self._size - len(kept)) // (len(by_rarity) - n)
            records = reservoir.records
            if len(records) > part:
                records = random.Random(f"nexus-stratum:{self._seed}:{name}").sample(records, part)
            kept.extend(records)
        return kept


class Sampler:
    """Feeds a reservoir from blocks of records, a part of a block at a time. Only the records it takes cost anything."""

    def __init__(self, reservoir: Reservoir | StratifiedReservoir) -> None:
        self._reservoir = reservoir
        self._earlier = 0
        self._pick = 1

    def take(self, records: Sequence[Record], n: int) -> None:
        """The first `n` records of the current block were handed out."""
        while self._pick <= self._earlier + n:
            self._pick = self._reservoir.add(self._pick, records[self._pick - self._earlier - 1])

    def finish(self, records: Sequence[Record]) -> None:
        """The whole block was handed out."""
        self.take(records, len(records))
        self._earlier += len(records)

    @property
    def records(self) -> list[Record]:
        """The sample so far."""
        return self._reservoir.records


def _seed_of(seed: int, name: str) -> int:
    return random.Random(f"{seed}:{name}").getrandbits(32)


def _weight(value: Any) -> int:
    """Roughly the bytes that a value holds."""
    if isinstance(value, str | bytes):
        return len(value)
    if isinstance(value, Mapping):
        return 64 + sum(_weight(v) for v in value.values())
    if isinstance(value, Sequence):
        return 64 + sum(map(_weight, value))
    return 32
