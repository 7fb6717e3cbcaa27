"""Where a student's heads should look: a teacher's attention summaries, told in positions of the student's own row.

A row is the student's P prompt tokens, then its answer tokens; position P - 1 + j predicts answer token j.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.distill.targets import AnchorTarget
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache import TeacherSignal
from nexus_core.student.arch import Site

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class MappedHead:
    """Head `head` of student block `block` is held to one head of the teacher."""

    block: int
    head: int
    teacher_block: str
    teacher_head: int


HeadMap = Mapping[int, tuple[MappedHead, ...]]  # by student block


@dataclass(frozen=True, slots=True, eq=False)
class AttentionTarget:
    """Of one student block, by answer token and mapped head: the positions [start, stop) of the row, and their mass."""

    start: NDArray[np.int32]  # (A, H)
    stop: NDArray[np.int32]  # (A, H)
    mass: NDArray[np.float32]  # (A, H)
    has: NDArray[np.bool_]  # (A, H)

    def __post_init__(self) -> None:
        if len({array.shape for array in (self.start, self.stop, self.mass, self.has)}) > 1 or self.has.ndim != 2:
            raise DataError("attention targets differ in their shapes", "one row per answer token, a column per head")
        if ((self.start >= self.stop) & self.has).any():
            raise DataError("an attention target is an empty range of positions", "leave its `has` False")

    def packed(self) -> AnchorTarget:
        """As rows and batches carry it, (A, 3 H): starts, stops, masses. A mass of 0 is no target; its weight is 0 too."""
        parts = [np.where(self.has, part, 0).astype(np.float32) for part in (self.start, self.stop, self.mass)]
        return AnchorTarget(np.concatenate(parts, axis=1), np.asarray(self.has.any(1)))


def map_heads(
    sites: Iterable[Site], heads: Mapping[str, Sequence[int]], count: int
) -> dict[int, tuple[MappedHead, ...]]:
    """A student head for each important head of the teacher block that the architect mapped, the costliest first.

    Each takes the least-used of the block's `count` heads, the first of equals: none has two masters before all have one.
    """
    if count < 1:
        raise UsageError(f"a student block with {count} heads", "pass the backbone's num_attention_heads")
    found: dict[int, list[MappedHead]] = {}
    for site in sites:
        for teacher_head in heads.get(site.teacher_block, ()):
            mapped = found.setdefault(site.block, [])
            mapped.append(MappedHead(site.block, len(mapped) % count, site.teacher_block, teacher_head))
    return {block: tuple(mapped) for block, mapped in found.items()}


def attention_targets(
    signal: TeacherSignal, mapping: HeadMap, prompt_offsets: NDArray[Any], answer_offsets: NDArray[Any]
) -> dict[int, AttentionTarget]:
    """By student block; blocks without a single target are left out.

    `prompt_offsets` (P, 2) are the bytes of `signal.prompt` that each of the student's prompt tokens is, empty for a token
    of its chat template (`nexus_core.hf.spans` gives characters, `byte_offsets` makes bytes of them); `answer_offsets`
    (A, 2) those of `signal.output`, empty at its end for the end token. A student position has a target where the teacher
    predicted a token from the same byte on, and looked at text.
    """
    prompt, size = np.asarray(prompt_offsets, np.int64).reshape(-1, 2), len(signal.prompt.encode())
    answer = np.asarray(answer_offsets, np.int64).reshape(-1, 2)
    row = np.concatenate([prompt, answer + size])
    queries = len(prompt) - 1 + np.arange(len(answer))
    same = _same_start(signal.offsets, answer)
    found: dict[int, AttentionTarget] = {}
    for block, heads in mapping.items():
        columns = [_column(signal, head, same) for head in heads]
        starts, stops, mass = (np.stack(parts, 1) for parts in zip(*columns, strict=True))
        first, last = _positions(row, starts, stops)
        last = np.minimum(last, queries[:, None] + 1)  # a query sees itself and what is before it
        has = (mass > 0) & (stops > starts) & (first < last)
        if has.any():
            found[block] = AttentionTarget(first.astype(np.int32), last.astype(np.int32), mass.astype(np.float32), has)
    return found


def _same_start(teacher: NDArray[Any], student: NDArray[Any]) -> Ints:
    """(A,): the teacher's token that starts at the byte where the student's does, -1 if none; parts of a character too."""
    starts = student[:, 0]
    found = np.searchsorted(teacher[:, 0], starts)
    exists = found < len(teacher)
    exists[exists] = teacher[found[exists], 0] == starts[exists]
    repeated = np.searchsorted(starts, starts) != np.arange(len(starts))
    return np.where(exists & ~repeated, found, -1)


def _column(signal: TeacherSignal, head: MappedHead, same: Ints) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Start, end (bytes of the full text) and mass of one teacher head at the student's positions; 0 where unknown."""
    summary = signal.attention.get(head.teacher_block)
    if summary is None or head.teacher_head not in summary.heads:
        nothing = np.zeros(len(same), np.int64)
        return nothing, nothing, nothing.astype(np.float32)
    h = summary.heads.index(head.teacher_head)
    known, at = same >= 0, np.maximum(same, 0)
    parts = (summary.starts[at, h].astype(np.int64), summary.ends[at, h], summary.mass[at, h].astype(np.float32))
    starts, ends, mass = (np.where(known, part, 0) for part in parts)
    return starts, ends, mass.astype(np.float32)


def _positions(row: Ints, starts: Ints, stops: Ints) -> tuple[Ints, Ints]:
    """First and behind-the-last position of the row's tokens that overlap each span; an empty range where none does."""
    (real,) = np.nonzero(row[:, 1] > row[:, 0])
    if not len(real):
        return np.zeros_like(starts), np.zeros_like(starts)
    low = np.searchsorted(row[real, 1], starts, side="right")  # the first token that ends behind the span's start
    high = np.searchsorted(row[real, 0], stops, side="left")  # behind the last token that starts before its end
    inside = low < high
    first = real[np.where(inside, low, 0)]
    return np.where(inside, first, 0), np.where(inside, real[np.where(inside, high - 1, 0)] + 1, 0)
