"""Bit fields and Rice codes for many tokens at once, in numpy.

A Rice code of parameter b writes a non-negative integer x as x >> b in unary (that many zeros, then a one) and the b
low bits as they are: the best whole-bit code for geometrically distributed integers, which gaps between sorted ids
are (R. F. Rice, 1979). Low bits and unary parts lie in separate sections of a token, so that the unary part is read
for all tokens in one step: its ones are the ends of its codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Bits = NDArray[np.uint8]


def put(bits: Bits, starts: Ints, values: Ints, widths: Ints) -> None:
    """Write `values` (N,) as fields of `widths` bits at `starts`, the most significant bit first."""
    for shift in range(int(widths.max(initial=0))):
        chosen = widths > shift
        bits[(starts + widths - 1 - shift)[chosen]] = (values[chosen] >> shift) & 1


def take(bits: Bits, starts: Ints, widths: Ints) -> Ints:
    """Read fields that `put` wrote: (N,)."""
    values = np.zeros(starts.shape, np.int64)
    for step in range(int(widths.max(initial=0))):
        chosen = widths > step
        values[chosen] = values[chosen] << 1 | bits[starts[chosen] + step]
    return values


def rice_cost(values: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """The cheapest Rice parameter per row and its bits: (T,), (T,). `values` (T, K) are 0 where a row has ended."""
    mean = values.sum(1) / np.maximum(counts, 1)
    # ln 2 times the mean is the median of a geometric distribution, near which the best divisor lies.
    guess = np.log2(np.maximum(mean * np.log(2), 1)).astype(np.int64)
    trials = np.stack([np.maximum(guess - 1, 0), guess, guess + 1])  # (3, T)
    costs = np.stack([counts * (b + 1) + (values >> b[:, None]).sum(1) for b in trials])
    best = costs.argmin(0)
    rows = np.arange(len(counts))
    return trials[best, rows], costs[best, rows]


def ragged(counts: Ints) -> tuple[Ints, Ints]:
    """For rows of `counts` items laid end to end: the row of each item, and its place in that row."""
    rows = np.repeat(np.arange(len(counts)), counts)
    return rows, np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)


def put_unary(bits: Bits, starts: Ints, quotients: Ints, rows: Ints) -> None:
    """Write the unary codes of each row end to end from the row's start; `bits` are zero there."""
    bits[_ends(starts, quotients + 1, rows)] = 1


def take_unary(bits: Bits, starts: Ints, stops: Ints, counts: Ints) -> Ints | None:
    """The quotients that `put_unary` wrote, (sum of counts,); None where a row does not hold exactly its count."""
    inside = np.zeros(len(bits) + 1, np.int8)
    np.add.at(inside, starts, 1)
    np.add.at(inside, stops, -1)
    ones = np.flatnonzero(bits & inside.cumsum(dtype=np.int8)[:-1].view(np.uint8))
    found = np.searchsorted(ones, stops) - np.searchsorted(ones, starts)
    if not np.array_equal(found, counts):
        return None
    rows, places = ragged(counts)
    previous: NDArray[Any] = np.concatenate([[0], ones[:-1]])
    return np.asarray(ones - np.where(places == 0, starts[rows] - 1, previous) - 1, np.int64)


def _ends(starts: Ints, lengths: Ints, rows: Ints) -> Ints:
    """Position of the last bit of each code of a row-wise concatenation."""
    through = np.cumsum(lengths)
    before = np.zeros(len(starts) + 1, np.int64)
    np.add.at(before, rows + 1, lengths)
    return np.asarray(starts[rows] + through - np.cumsum(before)[rows] - 1, np.int64)
