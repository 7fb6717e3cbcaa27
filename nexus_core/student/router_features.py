"""What the router sees of a prompt: hashed byte trigrams and words, and a few shallow shares. No tokenizer, no backbone.

Bytes are folded first (small letters, every digit is 0, white space other than a newline is a blank): the router asks
what kind of text this is, not which numbers are in it. A longer prompt is read at its two ends only, so the cost is bounded.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

WINDOW = 6144  # bytes that are read; of a longer prompt the first and the last half of them
GRAM = 3  # bytes; measured beside 4 and beside words alone on the five packs: see docs/explanation/router.md
SCALE = 16.0  # shares of single signs are small numbers; this brings them near 1, where the weights are
KINDS = (b"0123456789", b" ", b"\n", b"?", b".,;:!", b"'\"`", b"()", b"{}[]", b"+-*/=<>%", b"_#@&|\\^~$")
SHALLOW = len(KINDS) + 4  # and letters, capitals, bytes beyond ASCII, length

Ids = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Features:
    """Prompts, packed: prompt i has the buckets `ids[starts[i] : starts[i + 1]]` with `weights` that sum to 1."""

    ids: Ids
    weights: Floats
    starts: Ids  # one more than there are prompts
    shallow: Floats  # (prompts, SHALLOW)

    def __len__(self) -> int:
        return len(self.shallow)

    def take(self, rows: Sequence[int]) -> Features:
        """Those prompts, in that order."""
        parts = [slice(self.starts[i], self.starts[i + 1]) for i in rows]
        lengths = [part.stop - part.start for part in parts]
        return Features(
            np.concatenate([self.ids[p] for p in parts]) if parts else self.ids[:0],
            np.concatenate([self.weights[p] for p in parts]) if parts else self.weights[:0],
            np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64),
            self.shallow[list(rows)],
        )


def features(prompts: Sequence[str], buckets: int) -> Features:
    """The features of some prompts, in order."""
    raws = [_window(prompt) for prompt in prompts]
    rows = [_hashed(raw.translate(FOLD), buckets) for raw in raws]
    starts = np.zeros(len(rows) + 1, np.int64)
    np.cumsum([len(ids) for ids, _ in rows], out=starts[1:])
    shallow = [_shallow(raw, len(prompt)) for raw, prompt in zip(raws, prompts, strict=True)]
    return Features(
        np.concatenate([ids for ids, _ in rows]) if rows else np.zeros(0, np.int64),
        np.concatenate([weights for _, weights in rows]) if rows else np.zeros(0, np.float32),
        starts,
        np.stack(shallow) if shallow else np.zeros((0, SHALLOW), np.float32),
    )


def _window(prompt: str) -> bytes:
    """The bytes that are read; a lone surrogate is text as any other."""
    half = WINDOW // 2
    raw = (prompt if len(prompt) <= WINDOW else prompt[:half] + prompt[-half:]).encode("utf-8", "surrogatepass")
    return raw if len(raw) <= WINDOW else raw[:half] + raw[-half:]


def _hashed(folded: bytes, buckets: int) -> tuple[Ids, Floats]:
    """Buckets that occur, in order, and their shares: log(1 + count), so that a text that repeats itself stays itself."""
    words = folded.split()
    if not words:  # nothing but white space says nothing
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    data = np.frombuffer(b" " + folded + b" ", np.uint8).astype(np.uint32)
    grams = np.full(len(data) - GRAM + 1, 1, np.uint32)
    for offset in range(GRAM):
        grams = _mixed(grams ^ data[offset : offset + len(grams)])
    hashes = np.concatenate([grams, _mixed(np.array([zlib.crc32(word) for word in words], np.uint32))])
    ids, counts = np.unique(hashes % np.uint32(buckets), return_counts=True)
    weights = np.log1p(counts).astype(np.float32)
    return ids.astype(np.int64), weights / weights.sum()


def _mixed(hashes: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """One round of a multiplicative hash (Knuth's constant), its high bits folded down, where the modulus looks."""
    product = hashes * np.uint32(0x9E3779B1)
    mixed: NDArray[np.uint32] = product ^ (product >> np.uint32(15))
    return mixed


def _shallow(raw: bytes, characters: int) -> Floats:
    """Shares of kinds of bytes, and the length."""
    histogram = np.bincount(np.frombuffer(raw, np.uint8), minlength=256)
    shares = (histogram @ KIND_OF_BYTE) * (SCALE / max(1, len(raw)))
    return np.append(np.minimum(shares, SCALE), np.log1p(characters)).astype(np.float32) / np.float32(4.0)


def _fold() -> bytes:
    blanks = b"\t\r\v\f"
    return bytes(ord("0") if 48 <= b < 58 else b + 32 if 65 <= b < 91 else 32 if b in blanks else b for b in range(256))


def _kinds() -> Any:
    table = np.zeros((256, SHALLOW - 1), np.float32)
    for column, signs in enumerate(KINDS):
        table[list(signs), column] = 1.0
    table[97:123, -3] = 1 / SCALE  # most of any text: a plain share
    table[65:91, -2] = 1.0
    table[128:, -1] = 1.0
    return table


FOLD = _fold()
KIND_OF_BYTE = _kinds()
