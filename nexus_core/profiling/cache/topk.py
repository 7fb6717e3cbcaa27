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
"""Low bits of a log-probability's pattern that only exact entries keep."""
LIMIT = 127
"""Entries that the count field can say; a 32k vocabulary fits about 55 into 114 bytes, a vocabulary of 256 about 120."""
FLOOR = np.float32(-200)
"""Stands for minus infinity in sums: its float32 exponential is 0, and 0 times it is 0 rather than NaN."""
_ID_BITS = 20


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """T distributions over `vocabulary` tokens. Rows are padded to K, the longest list: ids by -1, the rest by -inf.

    The first `counts` entries of a row are kept, the likeliest first. Of these, those in `exact_entries` hold the
    teacher's log-probability in fp16 bit for bit; the others hold it to eight bits (half a nat between -4 and -8).
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
        """(T, K): which entries are the teacher's fp16 values bit for bit: the first `exact` by cell, then by id."""
        return exact_entries(patterns(self.log_probs), self.ids, self.counts, self.exact)

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
        return log_softmax(np.divide(rows, temperature, dtype=np.float32))


def log_softmax(rows: Floats) -> Floats:
    """(T, V) float32; rows have at least one finite entry."""
    shifted = rows - rows.max(1, keepdims=True)
    # Rounding can lift a certain token above log 1.
    return np.asarray(np.minimum(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)), 0), np.float32)


def kl_divergence(true: Floats, rebuilt: Floats) -> NDArray[np.float64]:
    """(T,) nats: KL(true || rebuilt) of normalised log-probabilities (T, V); what the truth rules out counts nothing."""
    likely = np.exp(true.astype(np.float64))
    with np.errstate(invalid="ignore"):
        terms = likely * (true.astype(np.float64) - rebuilt)
    return np.asarray(np.where(likely > 0, terms, 0).sum(1))


def patterns(log_probs: NDArray[np.float16]) -> Ints:
    """fp16 bits without the sign, which is known: they grow as a token gets less likely. Minus infinity is 0x7C00."""
    return (log_probs.view(np.uint16) & 0x7FFF).astype(np.int64)


def from_patterns(found: Ints) -> NDArray[np.float16]:
    """The inverse of `patterns`. Zero stays +0, so that log 1 has one form only."""
    return np.where(found > 0, found | 0x8000, 0).astype(np.uint16).view(np.float16)


def middles(found: Ints) -> Ints:
    """Patterns as entries that are not exact hold them: the middle of the cell."""
    return found >> FINE << FINE | 1 << (FINE - 1)


def exact_entries(found: Ints, ids: NDArray[np.signedinteger[Any]], counts: Ints, exact: Ints) -> NDArray[np.bool_]:
    """(T, K): the first `exact` entries by cell, then by id; known to both sides before the low bits are."""
    places = np.arange(ids.shape[1])
    keys = np.where(places < counts[:, None], found >> FINE << _ID_BITS | ids, np.iinfo(np.int64).max)
    ranks = np.empty_like(keys)
    np.put_along_axis(ranks, keys.argsort(1), places[None, :], axis=1)
    return np.asarray(ranks < exact[:, None])


def by_value(found: Ints, ids: NDArray[np.signedinteger[Any]], counts: Ints) -> Ints:
    """(T, K): the order of a row's entries: the likeliest first, equals by id, padding last."""
    inside = np.arange(ids.shape[1]) < counts[:, None]
    return np.where(inside, found << _ID_BITS | ids, np.iinfo(np.int64).max).argsort(1)
