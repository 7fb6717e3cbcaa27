"""Which entries of a distribution to list, under a cap of bytes.

The list ends where KL(truth || listed) is both no worse than that of plain top-50 on this very token and below
`target_kl`, every entry exact. If the cap comes first and plain top-50 is not matched, precision is given up for length,
step by step, until it is: rounding an entry costs about p * error ** 2 / 2 nats, and leaving one out about p. Of all steps
the nearest to the truth is taken if none suffices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import UsageError
from nexus_core.profiling.cache.bits import Ints, rice_cost
from nexus_core.profiling.cache.tail import Floats, TailShape
from nexus_core.profiling.cache.topk import (
    FINE,
    FLOOR,
    LEAST,
    LIMIT,
    MIDDLE,
    TopK,
    by_value,
    from_patterns,
    kept_bits,
    kept_size,
    patterns,
    rounded,
)

FIELDS = (7, 7, 5, 4, 1, 8, 15)
"""Bits of a token's header: count, exact, id parameter, value parameter, shaped tail, deepest cell, tail mass."""
_OVERHEAD = sum(FIELDS) + 8  # and the byte that says how long the token is
_NOISE = 1e-9  # nats; float32 sums are no finer

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rule:
    """`cap`: bytes per token, all included. `reference`: entries of the plain list to be matched. `exact`: entries that
    a list which is too long for all to be exact has exact; twice as many are tried before, and down to a quarter after."""

    cap: int = 114
    reference: int = 50
    target_kl: float = 0.01
    exact: int = 16

    def __post_init__(self) -> None:
        if not (16 <= self.cap <= 255 and 1 <= self.reference <= LIMIT and 1 <= self.exact <= LIMIT):
            raise UsageError(
                f"{self}: out of range", f"cap is 16 to 255 bytes; reference and exact are 1 to {LIMIT} entries"
            )
        if not self.target_kl >= 0:
            raise UsageError(
                f"target_kl {self.target_kl} is not 0 or above", "0 fills the cap wherever there is a tail"
            )


def select(log_probs: Floats, shape: TailShape | None, rule: Rule) -> TopK:
    """The lists of `log_probs` (T, V), which are normalised and at least FLOOR."""
    ids = _likeliest(log_probs)  # (T, K)
    top = np.take_along_axis(log_probs, ids, 1)
    plain, shaped, mass = _divergences(log_probs, ids, top, shape)
    found = patterns(top.astype(np.float16))
    reference = plain[:, min(rule.reference, ids.shape[1])]
    task = _Task(rule, np.minimum(plain, shaped), reference, _costs(top, found), _price(ids, found))
    counts, exact = _decide(task, np.maximum((top > FLOOR).sum(1), 1))
    rows = np.arange(len(ids))
    with np.errstate(divide="ignore"):
        tails = np.log(mass[rows, counts])
    underflow = np.isneginf(tails) & ((log_probs > FLOOR).sum(1) > counts)
    tails = np.where(underflow, LEAST, tails).astype(np.float16)
    better = shaped[rows, counts] < plain[rows, counts]
    return TopK(log_probs.shape[1], *_entries(ids, found, counts, exact), counts, exact, tails, better, shape)


@dataclass(frozen=True, slots=True, eq=False)
class _Task:
    """What a decision is made of; arrays are (T, K + 1), by count from 0 to K."""

    rule: Rule
    divergence: Doubles  # of a list of that many exact entries
    reference: Doubles  # (T,) of the plain list
    rounding: tuple[Doubles, Doubles]  # nats that rounding the first n entries costs, to MIDDLE bits and to none
    price: Callable[[Ints], Ints]

    def largest(self, exact: int) -> Ints:
        """(T,) how many entries fit the cap if the first `exact` of them are exact: bisection; one always fits."""
        size = len(self.reference)
        low, high = np.ones(size, np.int64), np.full(size, self.divergence.shape[1] - 1, np.int64)
        while (low < high).any():
            middle = (low + high + 1) // 2
            fits = self.price(middle) + kept_size(middle, np.full(size, exact)) <= self.rule.cap * 8
            low, high = np.where(fits, middle, low), np.where(fits, high, np.maximum(middle - 1, low))
        return low

    def finest(self, counts: Ints) -> Ints:
        """(T,) how many of `counts` entries can be exact in the bits that are left."""
        spare = self.rule.cap * 8 - self.price(counts)
        trials = np.arange(LIMIT + 1)
        fits = kept_size(counts[:, None], trials) <= spare[:, None]
        return np.asarray(np.minimum(np.maximum(fits.sum(1) - 1, 0), counts), np.int64)

    def nats(self, counts: Ints, exact: Ints) -> Doubles:
        """(T,) KL of lists of `counts` entries, `exact` of them exact."""
        rows = np.arange(len(counts))
        edge = np.minimum(3 * exact, counts)
        middle, coarse = self.rounding
        rounding = middle[rows, edge] - middle[rows, exact] + coarse[rows, counts] - coarse[rows, edge]
        return np.asarray(self.divergence[rows, counts] + rounding, np.float64)


def _decide(task: _Task, likely: Ints) -> tuple[Ints, Ints]:
    """(T,), (T,): how many entries to list, and how many of them exact. `likely`: entries that are possible at all."""
    goal = np.minimum(task.reference, task.rule.target_kl) + _NOISE
    reached = task.divergence[:, 1:] <= goal[:, None]
    wanted = np.where(reached.any(1), reached.argmax(1) + 1, task.divergence.shape[1])
    counts = np.minimum(task.largest(LIMIT), likely)
    short = (wanted > counts) & (counts < likely)
    counts = np.minimum(counts, wanted)
    exact, nats = counts, task.nats(counts, counts)
    short &= nats > task.reference + _NOISE
    # From many exact entries to few, until a list is as near as the plain one; where none is, the nearest is taken.
    for share in (2, 1, 0.75, 0.5, 0.25):
        if not short.any():
            break
        more = np.minimum(task.largest(int(share * task.rule.exact)), likely)
        fine = task.finest(more)
        now = task.nats(more, fine)
        nearer = short & (now < nats)
        counts, exact, nats = np.where(nearer, more, counts), np.where(nearer, fine, exact), np.where(nearer, now, nats)
        short &= nats > task.reference + _NOISE
    return counts, exact


def _costs(top: Floats, found: Ints) -> tuple[Doubles, Doubles]:
    """(T, K + 1) each: nats that rounding the first n entries costs, p * error ** 2 / 2 each."""
    middle, coarse = (from_patterns(rounded(found, kept)).astype(np.float64) - top for kept in (MIDDLE, 0))
    likely = np.exp(top.astype(np.float64)) / 2
    return _from_zero(likely * middle**2), _from_zero(likely * coarse**2)


def _from_zero(values: Doubles) -> Doubles:
    """(T, K + 1): sums of the first 0, 1, ... K values."""
    return np.pad(values.cumsum(1), ((0, 0), (1, 0)))


def _likeliest(log_probs: Floats) -> Ints:
    """(T, K) ids, the likeliest first, equals by id.

    The K-th largest maximum of more than K blocks is a bound that at least K values reach and few others do: five times
    faster than a partition of the whole row, and ties are broken the same way everywhere.
    """
    n, vocabulary = log_probs.shape
    k = min(vocabulary, LIMIT)
    width = max(vocabulary // (8 * k), 1)
    blocks = log_probs[:, : vocabulary // width * width].reshape(n, -1, width).max(2)
    bound = np.partition(blocks, blocks.shape[1] - k, axis=1)[:, -k]
    rows, ids = np.nonzero(log_probs >= bound[:, None])
    order = np.lexsort((-log_probs[rows, ids], rows))  # stable: equals stay in the order of their ids
    found = np.bincount(rows, minlength=n)
    firsts = np.cumsum(found) - found
    return np.asarray(ids[order][firsts[:, None] + np.arange(k)], np.int64)


def _divergences(
    log_probs: Floats, ids: Ints, top: Floats, shape: TailShape | None
) -> tuple[Doubles, Doubles, Doubles]:
    """KL of listing the n likeliest, for n from 0 to K, with a uniform and with the shaped tail, and the tail's mass T;
    all (T, K + 1).

    With q = T * s / S for a tail of weights s that sum to S, KL = sum p log p - sum p log s - T log T + T log S,
    all sums over the tail.
    """
    rest = np.exp(log_probs)
    np.put_along_axis(rest, ids, 0, axis=1)  # summed on its own: subtraction would lose a small tail to rounding
    likely = np.where(top > FLOOR, np.exp(top.astype(np.float64)), 0)  # (T, K)
    mass = _through(rest.sum(1), likely)
    own = _through(np.einsum("tv,tv->t", rest, log_probs), likely * top)
    entropy = own - mass * np.log(np.maximum(mass, 1e-300))
    left = np.maximum(log_probs.shape[1] - np.arange(ids.shape[1] + 1), 1)
    uniform = entropy + mass * np.log(left)
    if shape is None:
        return uniform, uniform, mass
    weights = shape.log_weights - np.log(np.exp(shape.log_weights).sum(dtype=np.float64))  # (V,)
    spread = np.exp(weights[ids])
    weight = 1 - _from_zero(spread)
    cross = _through(rest @ weights.astype(np.float32), likely * weights[ids])
    shaped = entropy - cross + mass * np.log(np.maximum(weight, 1e-12))
    return uniform, shaped, mass


def _through(rest: Floats, top: Doubles) -> Doubles:
    """(T, K + 1): the sum over what is left when the first 0, 1, ... K of `top` (T, K) are taken away."""
    tail_first = np.concatenate([rest[:, None], top[:, ::-1]], axis=1, dtype=np.float64)
    return np.asarray(tail_first.cumsum(1)[:, ::-1])


def _price(ids: Ints, found: Ints) -> Callable[[Ints], Ints]:
    """A function from counts (T,) to the bits (T,) of that many entries, refinements not included."""
    order = ids.argsort(1)
    sorted_ids = np.take_along_axis(ids, order, 1)
    cells = found >> FINE
    sorted_cells = np.take_along_axis(cells, order, 1)
    rows = np.arange(len(ids))

    def price(counts: Ints) -> Ints:
        listed = order < counts[:, None]
        last = np.maximum.accumulate(np.where(listed, sorted_ids, -1), axis=1)
        before = np.pad(last[:, :-1], ((0, 0), (1, 0)), constant_values=-1)
        gaps = np.where(listed, sorted_ids - before - 1, 0)
        depths = np.where(listed, cells[rows, counts - 1][:, None] - sorted_cells, 0)
        return np.asarray(_OVERHEAD + rice_cost(gaps, counts)[1] + rice_cost(depths, counts)[1])

    return price


def _entries(ids: Ints, found: Ints, counts: Ints, exact: Ints) -> tuple[NDArray[np.int32], NDArray[np.float16]]:
    """Ids and values (T, longest list) as they are stored: rounded where they are not exact, and padded."""
    width = int(counts.max(initial=0))
    inside = np.arange(width) < counts[:, None]
    ids, found = np.where(inside, ids[:, :width], -1), np.where(inside, found[:, :width], 0x7C00)
    found = np.where(inside, rounded(found, kept_bits(found, ids, counts, exact)), found)
    order = by_value(found, ids, counts)
    return np.take_along_axis(ids, order, 1).astype(np.int32), from_patterns(np.take_along_axis(found, order, 1))
