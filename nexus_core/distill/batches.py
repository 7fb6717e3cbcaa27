"""Batches of training rows: right-padded, of like length, and a pure function of (rows, seed, position).

A run that is resumed, or goes back to a checkpoint, therefore needs one integer to see the same data again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

from nexus_core.distill.targets import AnchorTarget, TrainingRow
from nexus_core.errors import UsageError

SHORTEST = 0.2  # share of the rows that a curriculum begins with
POOL = 16  # batches whose rows are sorted together: lengths are alike in a batch, and the order is still a shuffle
Held = tuple[torch.Tensor, torch.Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """B rows of T tokens with N answer positions, which are those of `answer` in row-major order.

    >>> logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]  # (N, V)
    """

    input_ids: torch.Tensor  # (B, T)
    attention_mask: torch.Tensor  # (B, T)
    answer: torch.Tensor  # (B, T) bool: its logits predict an answer token
    labels: torch.Tensor  # (N,)
    kl_ids: torch.Tensor  # (N, K), padded with -1
    kl_log_probs: torch.Tensor  # (N, K)
    kl_rest: torch.Tensor  # (N,)
    kl_has: torch.Tensor  # (N,) bool
    entropy: torch.Tensor  # (N,) of the teacher
    anchors: Mapping[int, Held]  # student block -> values (N, k), has (N,) bool
    attention: Mapping[int, Held]
    indices: tuple[int, ...]  # (B,) which rows these are
    capability: str = ""  # whose batch it is, where several are taught at once
    growing: bool = False  # longer rows are still to come in: an anchor error that grows with them is no drift

    @property
    def rows(self) -> int:
        return len(self.indices)

    @property
    def positions(self) -> int:
        """N, the answer positions: what a loss is a mean over."""
        return len(self.labels)

    @property
    def tokens(self) -> int:
        """Real tokens, without padding."""
        return int(self.attention_mask.sum())

    def to(self, device: Any) -> Batch:
        """The same on another device."""
        return Batch(**{f.name: _moved(getattr(self, f.name), device) for f in fields(self)})


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {block: (held.to(device), has.to(device)) for block, (held, has) in value.items()}
    return value


def collate(
    rows: Sequence[TrainingRow], pad_id: int = 0, indices: Sequence[int] | None = None, length: int = 0
) -> Batch:
    """One batch of these rows, padded on the right to the longest one or to `length`, whichever is more."""
    inputs = [torch.from_numpy(np.concatenate([row.prompt_ids, row.answer_ids[:-1]]).astype(np.int64)) for row in rows]
    input_ids = pad_sequence(inputs, batch_first=True, padding_value=pad_id)
    input_ids = pad(input_ids, (0, max(0, length - input_ids.shape[1])), value=pad_id)
    ends = torch.tensor([len(row) for row in rows])[:, None]
    starts = torch.tensor([len(row.prompt_ids) - 1 for row in rows])[:, None]
    places = torch.arange(input_ids.shape[1])[None, :]
    most = max(row.kl.ids.shape[1] for row in rows)
    return Batch(
        input_ids=input_ids,
        attention_mask=(places < ends).long(),
        answer=(places >= starts) & (places < ends),
        labels=_joined([row.answer_ids for row in rows]).long(),
        kl_ids=_joined([_widened(row.kl.ids, most, -1) for row in rows]).long(),
        kl_log_probs=_joined([_widened(row.kl.log_probs, most, -np.inf) for row in rows]),
        kl_rest=_joined([row.kl.rest for row in rows]),
        kl_has=_joined([row.kl.has for row in rows]),
        entropy=_joined([row.entropy for row in rows]),
        anchors=_held([(len(row.answer_ids), row.anchors) for row in rows]),
        attention=_held([(len(row.answer_ids), row.attention) for row in rows]),
        indices=tuple(range(len(rows)) if indices is None else indices),
    )


def _joined(parts: Sequence[NDArray[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate(parts))


def _widened(array: NDArray[Any], width: int, value: float) -> NDArray[Any]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1])), constant_values=value)


def _held(rows: Sequence[tuple[int, Mapping[int, AnchorTarget]]]) -> dict[int, Held]:
    """Targets of all rows by block; a row that has none for a block holds it to nothing."""
    widths = {block: target.values.shape[1] for _, targets in rows for block, target in targets.items()}
    found: dict[int, Held] = {}
    for block, width in sorted(widths.items()):
        parts = [targets.get(block) or AnchorTarget.none(n, width) for n, targets in rows]
        found[block] = (_joined([part.values for part in parts]), _joined([part.has for part in parts]))
    return found


@dataclass(frozen=True, slots=True)
class RowOrder:
    """`lengths` stand for the rows' own where another set of rows must be met in exactly this order. With a `curriculum`
    longer rows come in over the first so many batches: what is asked in few words, or answered in few steps, comes first."""

    lengths: tuple[int, ...] | None = None
    curriculum: int = 0


class Batches:
    """An endless sequence of batches. Each epoch is a shuffle in which rows of like length share a batch.

    >>> batches = Batches(rows, batch_size=64, seed=42)
    >>> batches.at(1000)  # always the same batch, whatever was asked for before
    """

    def __init__(
        self,
        rows: Sequence[TrainingRow],
        *,
        seed: int,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        pad_id: int = 0,
        order: RowOrder | None = None,
    ) -> None:
        if not rows:
            raise UsageError("there are no rows to make batches of", "collect signals first: nexus profile")
        if (batch_size is None) == (batch_tokens is None) or (batch_size or batch_tokens or 0) < 1:
            raise UsageError("a batch has either a number of rows or a number of tokens", "give one of the two")
        self._rows = rows
        order = order or RowOrder()
        self._lengths = np.array(order.lengths or [len(row) for row in rows])
        if len(self._lengths) != len(rows):
            raise UsageError(f"{len(self._lengths)} lengths for {len(rows)} rows", "give one for each row")
        self._seed, self._size, self._tokens, self._pad_id = seed, batch_size, batch_tokens, pad_id
        self._curriculum = order.curriculum
        self._by_length = np.argsort(self._lengths, kind="stable")
        self._first = [0]  # position of the first batch of each epoch that was planned so far
        self._plan: tuple[int, list[NDArray[np.intp]]] = (-1, [])

    def at(self, position: int) -> Batch:
        """Batch number `position`."""
        chosen = self.indices(position)
        batch = collate([self._rows[i] for i in chosen], self._pad_id, chosen)
        return replace(batch, growing=self._first[self.epoch_of(position)] < self._curriculum)

    def indices(self, position: int) -> list[int]:
        """Which rows batch number `position` holds."""
        if position < 0:
            raise UsageError(f"there is no batch number {position}", "positions count from 0")
        while self._first[-1] <= position:
            self._first.append(self._first[-1] + len(self._epoch(len(self._first) - 1)))
        epoch = int(np.searchsorted(self._first, position, side="right")) - 1
        return [int(i) for i in self._epoch(epoch)[position - self._first[epoch]]]

    def epoch_of(self, position: int) -> int:
        """Which pass over the rows batch number `position` belongs to."""
        self.indices(position)
        return int(np.searchsorted(self._first, position, side="right")) - 1

    def start(self, position: int) -> Iterator[Batch]:
        """Batches from number `position` on, without end."""
        while True:
            yield self.at(position)
            position += 1

    def _epoch(self, epoch: int) -> list[NDArray[np.intp]]:
        if self._plan[0] != epoch:
            self._plan = (epoch, self._planned(np.random.default_rng([self._seed, epoch]), self._known(epoch)))
        return self._plan[1]

    def _known(self, epoch: int) -> NDArray[np.intp]:
        """The rows of an epoch: all, or as many of the shortest as the curriculum has reached where the epoch starts."""
        if self._first[epoch] >= self._curriculum:
            return np.arange(len(self._rows))
        reached = SHORTEST + (1 - SHORTEST) * self._first[epoch] / self._curriculum
        return self._by_length[: max(1, round(reached * len(self._by_length)))]

    def _planned(self, generator: np.random.Generator, rows: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        order = rows[generator.permutation(len(rows))]
        size = self._size or max(1, int((self._tokens or 0) / self._lengths[rows].mean()))
        batches: list[NDArray[np.intp]] = []
        for pool in np.array_split(order, -(-len(order) // (size * POOL))):
            pool = pool[np.argsort(self._lengths[pool], kind="stable")]
            batches += self._cut(pool)
        return [batches[i] for i in generator.permutation(len(batches))]

    def _cut(self, pool: NDArray[np.intp]) -> list[NDArray[np.intp]]:
        """Runs of a sorted pool: all nearly as large as each other, or as many rows as fit the tokens."""
        if self._size is not None:
            return np.array_split(pool, -(-len(pool) // self._size))
        cuts, start = [], 0
        for end in range(1, len(pool)):
            if (end + 1 - start) * self._lengths[pool[end]] > (self._tokens or 0):
                cuts.append(end)
                start = end
        return np.split(pool, cuts)
