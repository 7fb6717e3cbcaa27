"""Token distributions as lists of likely tokens and a tail: what the codec packs, and what a loss is computed from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import UsageError
from nexus_core.profiling.cache.bits import Ints
from nexus_core.profiling.cache.tail import Floats, TailShape

FINE = 7
"""Low bits of a log-probability's pattern that only exact entries keep whole."""
MIDDLE = 2
"""How many of these the entries after the exact ones keep; there are twice as many of them as of exact ones."""
LIMIT = 127
"""Entries that the count field can say; a 32k vocabulary fits about 55 into 114 bytes, a vocabulary of 256 about 120."""
FLOOR = np.float32(-200)
"""Stands for minus infinity in sums: its float32 exponential is 0, and 0 times it is 0 rather than NaN."""
LEAST = np.float32(-104)
"""About the log of the smallest float32: what a tail is said to hold that is possible but sums to 0."""
_ID_BITS = 20


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """T distributions over `vocabulary` tokens. Rows are padded to K, the longest list: ids by -1, the rest by -inf.

    The first `counts` entries of a row are kept, the likeliest first. Of these, those in `exact_entries` hold the
    teacher's log-probability in fp16 bit for bit, twice as many after them to ten bits below the sign, and the others to
    eight (an eighth and a half of a nat between -4 and -8).
    `tails` is the log of the mass of all tokens that are not listed. Where `shaped`, it is spread like `shape`.
    """

    vocabulary: int
    ids: NDArray[np.int32]  # (T, K)
    log_probs: NDArray[np.float16]  # (T, K)
    counts: Ints  # (T,)
    exact: Ints  # (T,)
    tails: NDArray[np.float16]  # (T,)
    shaped: NDArray[np.bool_]  # (T,)
    shape: TailShape | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @property
    def exact_entries(self) -> NDArray[np.bool_]:
        """(T, K): which entries are the teacher's fp16 values bit for bit."""
        return np.asarray(kept_bits(patterns(self.log_probs), self.ids, self.counts, self.exact) == FINE)

    def full(self, temperature: float = 1.0) -> Floats:
        """(T, V) normalised log-probabilities of the whole vocabulary, at any temperature."""
        if not temperature > 0:
            raise UsageError(f"temperature {temperature} is not above 0", "use 1 for the distribution as it is")
        flat = np.zeros(self.vocabulary, np.float32)
        weights = flat if self.shape is None else self.shape.log_weights
        rows = np.where(self.shaped[:, None], weights, flat)  # (T, V)
        listed_rows, places = np.nonzero(self.ids >= 0)
        listed = (listed_rows, self.ids[listed_rows, places])
        rows[listed] = -np.inf
        with np.errstate(divide="ignore", invalid="ignore"):
            rest = np.log(np.exp(rows).sum(1, dtype=np.float64))  # -inf where everything is listed
            rows += np.where(np.isneginf(rest), -np.inf, self.tails - rest).astype(np.float32)[:, None]
        rows[listed] = self.log_probs[listed_rows, places]
        rows /= np.float32(temperature)
        return log_softmax(rows)


def log_softmax(rows: Floats) -> Floats:
    """(T, V) float32; rows have at least one finite entry."""
    found: Floats = rows - rows.max(1, keepdims=True)
    found -= np.log(np.exp(found).sum(1, keepdims=True))  # in place: at this size fresh memory costs more than sums
    np.minimum(found, 0, out=found)  # rounding can lift a certain token above log 1
    return found


def kl_divergence(true: Floats, rebuilt: Floats) -> NDArray[np.float64]:
    """(T,) nats: KL(true || rebuilt) of normalised log-probabilities (T, V); what the truth rules out counts nothing."""
    likely = np.exp(true).astype(np.float64)
    with np.errstate(invalid="ignore"):
        terms = likely * (true.astype(np.float64) - rebuilt)
    return np.asarray(np.where(likely > 0, terms, 0).sum(1))


def patterns(log_probs: NDArray[np.float16]) -> Ints:
    """fp16 bits without the sign, which is known: they grow as a token gets less likely. Minus infinity is 0x7C00."""
    return (log_probs.view(np.uint16) & 0x7FFF).astype(np.int64)


def from_patterns(found: Ints) -> NDArray[np.float16]:
    """The inverse of `patterns`. Zero stays +0, so that log 1 has one form only."""
    return np.where(found > 0, found | 0x8000, 0).astype(np.uint16).view(np.float16)


def rounded(found: Ints, kept: Ints | int) -> Ints:
    """Patterns of which only `kept` of the FINE low bits are stored: the middle of what they can have been."""
    shift = np.asarray(FINE - kept)
    return np.asarray(found >> shift << shift | (1 << shift) >> 1, np.int64)


def kept_bits(found: Ints, ids: NDArray[np.signedinteger[Any]], counts: Ints, exact: Ints) -> Ints:
    """(T, K): FINE bits for the first `exact` entries by cell, then by id; MIDDLE for twice as many after them, then 0.

    The order is known to both sides before the low bits are.
    """
    places = np.arange(ids.shape[1])
    keys = np.where(places < counts[:, None], found >> FINE << _ID_BITS | ids, np.iinfo(np.int64).max)
    ranks = np.empty_like(keys)
    np.put_along_axis(ranks, keys.argsort(1), places[None, :], axis=1)
    ranks = np.where(places < counts[:, None], ranks, LIMIT * 3)
    first = exact[:, None]
    return np.asarray(np.where(ranks < first, FINE, np.where(ranks < 3 * first, MIDDLE, 0)), np.int64)


def kept_size(counts: Ints, exact: Ints) -> Ints:
    """Bits that `kept_bits` gives to a whole token."""
    first = np.minimum(counts, exact)
    return np.asarray(FINE * first + MIDDLE * (np.minimum(counts, 3 * exact) - first), np.int64)


def by_value(found: Ints, ids: NDArray[np.signedinteger[Any]], counts: Ints) -> Ints:
    """(T, K): the order of a row's entries: the likeliest first, equals by id, padding last."""
    inside = np.arange(ids.shape[1]) < counts[:, None]
    return np.where(inside, found << _ID_BITS | ids, np.iinfo(np.int64).max).argsort(1)
