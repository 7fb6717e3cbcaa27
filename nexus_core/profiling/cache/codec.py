"""Top-k logits in at most 114 bytes per token: a token's distribution as a short list, and the rest as a shape.

Plain top-50 costs 300 bytes (an int32 id and an fp16 log-probability each) and spreads the tail's mass uniformly. Here,
per token, beside one byte that says its length:

    count 7 | exact 7 | id parameter 5 | value parameter 4 | shaped tail 1 | deepest cell 9 | tail mass 15     (bits)
    low bits of the id gaps | low bits of the depths | low bits of log-probabilities | unary parts, up to a byte

* Entries are sorted by id and the gaps Rice-coded: near the entropy of the set, about 11 bits an id for 50 of 32k.
* A log-probability is an fp16 whose sign is known, so its 15-bit pattern grows as the token gets less likely. The upper
  nine bits, its *cell*, are Rice-coded as a depth below the deepest cell; in a list that is long because the tail is
  long, most depths are small. The lower six follow for the entries that are exact.
* The tail keeps its mass in fp16, spread uniformly or like the shared `TailShape`, whichever is nearer for this token.

`select` decides what is listed; all after that is lossless: `pack(decode(x))` is x, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache.bits import Ints, put, put_unary, ragged, rice_cost, take, take_unary
from nexus_core.profiling.cache.select import FIELDS, Rule, select
from nexus_core.profiling.cache.tail import Floats, TailShape
from nexus_core.profiling.cache.topk import (
    FINE,
    FLOOR,
    TopK,
    by_value,
    from_patterns,
    kept_bits,
    kept_size,
    log_softmax,
    patterns,
    rounded,
)

_HEADER = sum(FIELDS)
_STARTS = tuple(sum(FIELDS[:i]) for i in range(len(FIELDS)))
_CHUNK = 1 << 22  # logits worked on at a time: whatever is given, the encoder needs a few times 16 MB beside it
_DAMAGED = "the unit is damaged or was written by another version: delete it and build it again"


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """T compressed distributions: their bytes end to end, and how many bytes each has."""

    data: NDArray[np.uint8]  # (sum of lengths,)
    lengths: NDArray[np.uint8]  # (T,)

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def nbytes(self) -> int:
        """Everything that is stored for these tokens; the tail's shape is the unit's."""
        return self.data.nbytes + self.lengths.nbytes

    @staticmethod
    def concatenate(parts: list[Packed]) -> Packed:
        empty = np.zeros(0, np.uint8)
        return Packed(
            np.concatenate([empty, *(part.data for part in parts)]),
            np.concatenate([empty, *(part.lengths for part in parts)]),
        )


@dataclass(frozen=True, slots=True, eq=False)
class LogitCodec:
    """Compresses next-token logits over `vocabulary` tokens; `shape` is the shared tail, uniform without it.

    >>> packed = LogitCodec(32_000).encode(logits)  # (T, 32_000), numpy or torch
    >>> LogitCodec(32_000).decode(packed).full(temperature=2.0)  # (T, 32_000) log-probabilities
    """

    vocabulary: int
    shape: TailShape | None = None
    rule: Rule = field(default_factory=Rule)

    def __post_init__(self) -> None:
        if not 2 <= self.vocabulary <= 1 << 18:
            raise UsageError(f"a vocabulary of {self.vocabulary} is out of range", "2 to 262144 tokens can be coded")
        if self.shape is not None and len(self.shape.levels) != self.vocabulary:
            raise DataError(
                f"the tail shape is of {len(self.shape.levels)} tokens, the vocabulary of {self.vocabulary}",
                "average the tails of this same teacher",
            )

    def same_as(self, other: LogitCodec) -> bool:
        """Whether `other` reads what this one packs; the rule matters to the encoder only."""
        shapes = self.shape is other.shape or (self.shape is not None and self.shape.same_as(other.shape))
        return self.vocabulary == other.vocabulary and shapes

    def log_probs(self, logits: Any) -> Floats:
        """(T, V) float32 log-probabilities of raw logits, -199 at least; minus infinity is -200, at which sums work."""
        rows = np.asarray(logits.detach().float().cpu() if hasattr(logits, "detach") else logits, np.float32)
        if rows.ndim != 2 or rows.shape[1] != self.vocabulary:
            raise DataError(
                f"logits have shape {rows.shape}, expected (tokens, {self.vocabulary})", "pass one row per token"
            )
        peaks = rows.max(1, initial=-np.inf)
        bad = ~np.isfinite(peaks)  # NaN passes through a maximum
        if bad.any():
            token = int(bad.argmax())
            what = {np.inf: "an infinite", -np.inf: "no finite"}.get(float(peaks[token]), "a NaN")
            raise DataError(
                f"token {token} of {len(rows)} has {what} logit",
                "the teacher's forward pass overflowed or masked everything: load it in float32 and look at this sample",
            )
        found = log_softmax(rows)
        return np.where(np.isneginf(found), FLOOR, np.maximum(found, FLOOR + 1))

    def encode(self, logits: Any) -> Packed:
        """Compress (T, V) logits or log-probabilities, numpy or torch. Minus infinity is a probability of 0."""
        step = max(_CHUNK // self.vocabulary, 1)
        parts = [logits[start : start + step] for start in range(0, len(logits), step)]
        return Packed.concatenate([self.pack(select(self.log_probs(part), self.shape, self.rule)) for part in parts])

    def pack(self, top: TopK) -> Packed:
        """The bytes of lists that are chosen already; the inverse of `decode`."""
        order = np.where(top.ids >= 0, top.ids, self.vocabulary).argsort(1)
        ids = np.take_along_axis(top.ids, order, 1).astype(np.int64)  # (T, K) ascending, padding last
        found = np.take_along_axis(patterns(top.log_probs), order, 1)
        kept = kept_bits(found, ids, top.counts, top.exact)
        listed = ids >= 0
        deepest = np.where(listed, found >> FINE, 0).max(1, initial=0)  # (T,)
        gaps = np.where(listed, np.diff(ids, axis=1, prepend=-1) - 1, 0)
        depths = np.where(listed, deepest[:, None] - (found >> FINE), 0)
        id_low, depth_low = rice_cost(gaps, top.counts)[0], rice_cost(depths, top.counts)[0]
        header = np.stack([top.counts, top.exact, id_low, depth_low, top.shaped, deepest, patterns(top.tails)], 1)
        fine = (found & (1 << FINE) - 1) >> (FINE - kept)
        return _write(header, gaps[listed], depths[listed], (fine[listed], kept[listed]))

    def decode(self, packed: Packed) -> TopK:
        """The lists that were packed, every kept value bit for bit."""
        lengths = packed.lengths.astype(np.int64)
        if int(lengths.sum()) != len(packed.data) or (lengths * 8 < _HEADER).any():
            raise DataError(
                f"{len(packed.data)} bytes of logits do not hold tokens of {int(lengths.sum())} bytes in all", _DAMAGED
            )
        bits = np.unpackbits(packed.data)
        header, gaps, depths, fine_starts = _read(bits, lengths)
        counts, exact, _, _, shaped, deepest, tails = header.T
        rows, places = ragged(counts)
        ids = np.full((len(counts), int(counts.max(initial=0))), -1)
        found = np.full(ids.shape, 0x7C00)
        ids[rows, places] = _sums(gaps + 1, counts) - 1
        cells = deepest[rows] - depths
        if (ids >= self.vocabulary).any() or (cells < 0).any() or (shaped.any() and self.shape is None):
            raise DataError(f"the logits are not those of a vocabulary of {self.vocabulary} with this tail", _DAMAGED)
        found[rows, places] = cells << FINE
        kept = kept_bits(found, ids, counts, exact)[rows, places]
        fine = take(bits, fine_starts[rows] + _sums(kept, counts) - kept, kept)
        found[rows, places] = rounded(cells << FINE | fine << (FINE - kept), kept)
        order = by_value(found, ids, counts)
        ids = np.take_along_axis(ids, order, 1).astype(np.int32)
        values = from_patterns(np.take_along_axis(found, order, 1))
        return TopK(self.vocabulary, ids, values, counts, exact, from_patterns(tails), shaped.astype(bool), self.shape)


def _fields(header: Ints, starts: Ints) -> list[Ints]:
    """Where in the bits the sections of each token start: id lows, depth lows, refinements, unary parts; (T,) each."""
    counts, exact, id_low, depth_low = header.T[:4]
    ends = np.cumsum([counts * id_low, counts * depth_low, kept_size(counts, exact)], axis=0)
    return [starts + _HEADER, *(starts + _HEADER + ends)]


def _write(header: Ints, gaps: Ints, depths: Ints, fine: tuple[Ints, Ints]) -> Packed:
    """`gaps`, `depths` and `fine`, low bits and how many, are (sum of counts,): tokens end to end, entries by id."""
    counts, _, id_low, depth_low = header.T[:4]
    rows, places = ragged(counts)
    high, deep = gaps >> id_low[rows], depths >> depth_low[rows]  # unary parts
    gap_bits = np.bincount(rows, high + 1, len(counts)).astype(np.int64)
    depth_bits = np.bincount(rows, deep + 1, len(counts)).astype(np.int64)
    lengths = -(-(_fields(header, np.zeros_like(counts))[3] + gap_bits + depth_bits) // 8)
    starts = (np.cumsum(lengths) - lengths) * 8
    bits = np.zeros(int(lengths.sum()) * 8, np.uint8)
    for start, width, values in zip(_STARTS, FIELDS, header.T, strict=True):
        put(bits, starts + start, values, np.full(len(starts), width))
    ids, cells, fine_starts, unary = _fields(header, starts)
    put(bits, ids[rows] + places * id_low[rows], gaps, id_low[rows])
    put(bits, cells[rows] + places * depth_low[rows], depths, depth_low[rows])
    put(bits, fine_starts[rows] + _sums(fine[1], counts) - fine[1], *fine)
    put_unary(bits, unary, high, rows)
    put_unary(bits, unary + gap_bits, deep, rows)
    return Packed(np.packbits(bits), lengths.astype(np.uint8))


def _read(bits: NDArray[np.uint8], lengths: Ints) -> tuple[Ints, Ints, Ints, Ints]:
    """What `_write` wrote: header (T, 7), gaps, depths; and where each token's refinements start, (T,)."""
    stops = np.cumsum(lengths) * 8
    starts = stops - lengths * 8
    columns = [take(bits, starts + at, np.full(len(starts), n)) for at, n in zip(_STARTS, FIELDS, strict=True)]
    header = np.stack(columns, 1)
    counts, exact, id_low, depth_low = header.T[:4]
    ids, cells, fine, unary = _fields(header, starts)
    rows, places = ragged(counts)
    quotients = None
    if (counts > 0).all() and (exact <= counts).all() and (unary < stops).all():
        quotients = take_unary(bits, unary, stops, 2 * counts)
    if quotients is None:
        raise DataError("the logits of a token do not have the length that its header says", _DAMAGED)
    twice, places_twice = ragged(2 * counts)
    first = places_twice < counts[twice]  # a token's unary parts: all of its ids, then all of its cells
    gaps = quotients[first] << id_low[rows] | take(bits, ids[rows] + places * id_low[rows], id_low[rows])
    depths = quotients[~first] << depth_low[rows] | take(bits, cells[rows] + places * depth_low[rows], depth_low[rows])
    return header, gaps, depths, fine


def _sums(values: Ints, counts: Ints) -> Ints:
    """Running sums that start anew in each row of `counts` items."""
    through = np.cumsum(values)
    rows, _ = ragged(counts)
    before = np.concatenate([[0], through])[np.cumsum(counts) - counts]
    return np.asarray(through - before[rows], np.int64)
