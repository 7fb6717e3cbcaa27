"""A small uniform sample of a long stream, in constant memory (Vitter's algorithm R)."""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from nexus_core.data.records import MIB, Record
from nexus_core.errors import DataError

BUDGET = 256 * MIB  # 200 records of a long-context set are 200 MB; beyond it fewer are kept, still uniformly
MAX_STRATA = 64


class Reservoir:
    """The first `size` records, then record i replaces one of them with probability `size`/i."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._random = random.Random(f"nexus-reservoir:{seed}")
        self._kept: list[Record] = []
        self._bytes = 0
        self._slot = 0

    def add(self, i: int, record: Record) -> int:
        """Take record number `i` (from 1); give the number of the next one to take.

        The draws for the records in between are made here, one each, so that they cost no call.
        """
        if len(self._kept) < self._size and i <= self._size:
            self._kept.append(record)
        elif self._slot < len(self._kept):
            self._bytes -= _weight(self._kept[self._slot])
            self._kept[self._slot] = record
        self._bytes += _weight(record)
        while self._bytes > BUDGET and len(self._kept) > 1:
            self._bytes -= _weight(self._kept.pop(self._random.randrange(len(self._kept))))
            self._size = len(self._kept)
        return self._next(i)

    def _next(self, i: int) -> int:
        draw, size = self._random.random, self._size
        i += 1
        if i <= size:
            return i
        if size == 0:
            return sys.maxsize
        while (slot := int(draw() * i)) >= size:
            i += 1
        self._slot = slot
        return i

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
