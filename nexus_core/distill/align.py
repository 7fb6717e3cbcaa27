"""From a teacher's tokens to the student's: places where both have read the same bytes, and next-token mass carried over.

**Places.** Position j of the student's answer is aligned when its token starts at a byte where a teacher's token starts
too: then both have read the same text, and what the teacher expects next can be said in the student's tokens.

**Mass.** A teacher's candidate goes to the token that the student's tokenizer begins its text with. That is safe only if
what follows cannot change it: after "9" the text may be "91", which is one token of a student that merges digits. Such
a text is *open* (see `beginnings`):

* On the answer's own path the continuation is known. It is followed until the student's token is decided, which gets the
  product of the teacher's probabilities so far. What branches off on the way ("9" and then "2", not "1") goes to the
  token that its text begins with, if that is not open in its turn.
* Off the path nothing says how it goes on: the mass goes to the rest. It is never given to a token that might be wrong,
  so what a token is given is at most what the teacher means.

The teacher's distribution is normalised before (its listed log-probabilities are rounded), so listed + rest is 1 after.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.distill.beginnings import Beginnings, Key
from nexus_core.distill.targets import SparseTargets
from nexus_core.distill.vocabulary import Ints, Vocabulary
from nexus_core.profiling.cache import Packed, TeacherSignal, TopK

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
AHEAD = 12  # teacher's tokens that are read on; a beginning that is open still is not used
LEAST_REST = 1e-12  # what is left of 1 below this is rounding


@dataclass(frozen=True, slots=True)
class AlignSettings:
    """`most` tokens are listed per position; a branch of less mass than `least` goes to the rest unread."""

    most: int
    least: float


@dataclass(frozen=True, slots=True, eq=False)
class Aligned:
    """One answer in the student's tokens. `places` are the teacher's positions, -1 where no token of it starts."""

    answer_ids: NDArray[np.int32]  # (A,)
    places: Ints  # (A,)
    targets: SparseTargets


@dataclass(frozen=True, slots=True, eq=False)
class _Tokens:
    """Tokens of many answers end to end; spans lie in one text in which the answers follow each other, apart by a gap."""

    ids: Ints  # (N,)
    starts: Ints  # (N,)
    ends: Ints  # (N,)
    sound: Flags  # (N,) the token says exactly the bytes of its span, or ends the answer


class Aligner:
    """Aligns one teacher's signals with one student's tokens. What a vocabulary pair needs is computed once.

    >>> aligner = Aligner(load_vocabulary(teacher_path), read_vocabulary(student_tokenizer), AlignSettings(16, 1e-4))
    >>> aligned = aligner.align(signals)
    """

    def __init__(self, teacher: Vocabulary, student: Vocabulary, settings: AlignSettings) -> None:
        self.teacher, self.student, self.settings = teacher, student, settings
        self._beginnings = Beginnings(teacher, student)

    def align(self, signals: Sequence[TeacherSignal]) -> list[Aligned]:
        """Each signal's answer in the student's tokens, in order."""
        texts = [signal.output.encode() for signal in signals]
        answers = self.answers(signals)
        bases = np.concatenate([[0], np.cumsum([len(text) + 1 for text in texts])])
        teacher = self._teacher_tokens(signals, texts, bases)
        student = self._student_tokens(answers, texts, bases)
        places = _places(student, teacher, np.isin(student.ids, [self.student.end]), self._is_end(teacher.ids))
        targets = self._targets(signals, teacher, student, places, b"\0".join(texts))
        return self._split(signals, answers, places, targets)

    def answers(self, signals: Sequence[TeacherSignal]) -> list[list[int]]:
        """The teacher's outputs in the student's tokens, with the end token where the teacher had ended."""
        found = self.student.encode([signal.output for signal in signals])
        return [
            [*ids, self.student.end] if self.is_complete(signal) else ids
            for ids, signal in zip(found, signals, strict=True)
        ]

    def is_complete(self, signal: TeacherSignal) -> bool:
        """Whether the teacher ended this answer itself: by an end token, or by a stop string, which the output lacks."""
        if len(signal.token_ids) and int(signal.token_ids[-1]) in self.teacher.ends:
            return True
        said = self.teacher.text(signal.token_ids.tolist()).lstrip(b" ")
        own = signal.output.encode().lstrip(b" ")
        return said.startswith(own) and len(said) > len(own)

    # --- the two sides as flat arrays -------------------------------------------------------------------------------

    def _teacher_tokens(self, signals: Sequence[TeacherSignal], texts: Sequence[bytes], bases: Ints) -> _Tokens:
        parts = []
        for signal, text, base in zip(signals, texts, bases[:-1], strict=True):
            ids = signal.token_ids.tolist()
            spans = self.teacher.spans(ids, text)
            spans = signal.offsets.astype(np.int64) if spans is None else spans
            sound = np.array(
                [self._is_sound(i, text, s, e) for i, (s, e) in zip(ids, spans.tolist(), strict=True)], np.bool_
            )
            parts.append((signal.token_ids.astype(np.int64), *(spans + base).T, sound))
        return _Tokens(*(_cat(columns) for columns in zip(*parts, strict=True)))

    def _is_sound(self, token: int, text: bytes, start: int, end: int) -> bool:
        if token in self.teacher.ends:
            return start == len(text)
        said = self.teacher.bytes_of(token)
        if not said or start >= end:
            return False
        # Longer than its span is a token whose leading space decoding drops, or that a stop string cuts.
        return said == text[start:end]

    def _student_tokens(self, answers: Sequence[Sequence[int]], texts: Sequence[bytes], bases: Ints) -> _Tokens:
        parts = []
        for answer, text, base in zip(answers, texts, bases[:-1], strict=True):
            spans = self.student.spans(answer, text)
            if spans is None:  # this tokenizer changes the text: nothing of this answer can be aligned
                spans = np.full((len(answer), 2), -1 - base)
            parts.append((np.array(answer, np.int64), *(spans + base).T, spans[:, 0] >= 0))
        return _Tokens(*(_cat(columns) for columns in zip(*parts, strict=True)))

    def _is_end(self, ids: Ints) -> Flags:
        return np.isin(ids, self.teacher.ends)

    # --- mass -------------------------------------------------------------------------------------------------------

    def _targets(
        self, signals: Sequence[TeacherSignal], teacher: _Tokens, student: _Tokens, places: Ints, text: bytes
    ) -> SparseTargets:
        n = len(student.ids)
        if not any(signal.codec for signal in signals) or not (places >= 0).any():
            return SparseTargets.none(n)
        top = _Distributions.of(signals, teacher.ids)
        paths = self._paths(teacher, student, places, top, text)
        rows, ids, mass = self._listed(paths, student, top)
        more = self._branches(paths, teacher, top, text)
        merged = _merged(
            (np.concatenate([rows, more[0]]), np.concatenate([ids, more[1]]), np.concatenate([mass, more[2]])),
            len(paths.positions),
            self.settings.most,
        )
        return _scattered(merged, paths.positions, n)

    def _paths(self, teacher: _Tokens, student: _Tokens, places: Ints, top: _Distributions, text: bytes) -> _Paths:
        """Follow the answer from each aligned position until it is decided which token the student begins with."""
        positions = np.flatnonzero(places >= 0)
        first, starts, stops = places[positions], student.starts[positions], student.ends[positions]
        final = len(teacher.ids) - 1
        # Ends never fall, for answers follow each other: the first token that covers the student's token's end.
        at = np.clip(np.searchsorted(teacher.ends, stops), first, final)
        fits = np.ones(len(positions), np.bool_)
        waiting = np.flatnonzero(starts < stops)  # an end token is decided as it stands
        for _ in range(AHEAD):
            said = [
                text[a:b] for a, b in zip(starts[waiting].tolist(), teacher.ends[at[waiting]].tolist(), strict=True)
            ]
            open_ = np.array(self._beginnings.are_open(said), np.bool_)
            fits[waiting[~open_]] = self._begins_with(said, open_, student.ids[positions[waiting]])
            waiting = waiting[open_]
            follows = at[waiting] < final
            after = np.minimum(at[waiting] + 1, final)
            follows &= (teacher.starts[after] == teacher.ends[at[waiting]]) & teacher.sound[after]
            at[waiting[follows]] += 1
            waiting = waiting[follows & ~self._is_end(teacher.ids[after])]  # after an end nothing can change any more
            if not len(waiting):
                break
        fits[waiting] = False
        bad = np.concatenate([[0], np.cumsum(~(teacher.sound & top.known))])
        good = fits & (bad[at + 1] == bad[first])
        return _Paths(positions[good], first[good], at[good] + 1, top.path(first, at + 1)[good])

    def _begins_with(self, said: Sequence[bytes], open_: Flags, tokens: Ints) -> Flags:
        """Of the texts that are not open: whether the student begins them with these tokens, as it did in the answer."""
        closed = [(one, False) for one, is_open in zip(said, open_.tolist(), strict=True) if not is_open]
        same: Flags = self._beginnings.of(closed) == tokens[~open_]
        return same

    def _listed(self, paths: _Paths, student: _Tokens, top: _Distributions) -> tuple[Ints, Ints, Floats]:
        """First tokens: each candidate's mass to what it begins with, the actual one's to the student's actual token."""
        ids, mass = top.ids[paths.first], top.probs[paths.first]  # (n, K)
        own = ids == top.actual[paths.first][:, None]
        heads = np.where(own, student.ids[paths.positions][:, None], self._beginnings.heads(ids))
        mass = np.where(own, paths.mass[:, None], mass)
        rows, places = np.nonzero(heads >= 0)
        return rows, heads[rows, places], mass[rows, places]

    def _branches(self, paths: _Paths, teacher: _Tokens, top: _Distributions, text: bytes) -> tuple[Ints, Ints, Floats]:
        """What leaves the answer's path after its first token, before it is decided what the student begins with."""
        steps = paths.until - paths.first - 1
        rows = np.repeat(np.arange(len(steps)), steps)
        at = np.arange(len(rows)) - np.repeat(np.cumsum(steps) - steps, steps) + 1 + paths.first[rows]
        reached = top.path(paths.first[rows], at)  # mass that comes as far as this token
        mass = reached[:, None] * top.probs[at]
        ids = top.ids[at]
        entries, places = np.nonzero((ids >= 0) & (ids != top.actual[at][:, None]) & (mass >= self.settings.least))
        found, ends = ids[entries, places], self._is_end(ids[entries, places])
        starts, stops = teacher.starts[paths.first[rows[entries]]], teacher.starts[at[entries]]
        keys: list[Key] = []
        for token, ended, start, stop in zip(
            found.tolist(), ends.tolist(), starts.tolist(), stops.tolist(), strict=True
        ):
            more = b"" if ended else self.teacher.bytes_of(token)
            keys.append((text[start:stop] + more, ended) if more is not None else (b"", False))
        begins = self._beginnings.of(keys)
        safe = begins >= 0
        return rows[entries][safe], begins[safe], mass[entries, places][safe]

    def _split(
        self, signals: Sequence[TeacherSignal], answers: Sequence[Sequence[int]], places: Ints, targets: SparseTargets
    ) -> list[Aligned]:
        first = np.concatenate([[0], np.cumsum([len(answer) for answer in answers])])
        before = np.concatenate([[0], np.cumsum([len(signal.token_ids) for signal in signals])])
        found = []
        for i, answer in enumerate(answers):
            span = slice(int(first[i]), int(first[i + 1]))
            own = np.where(places[span] >= 0, places[span] - before[i], -1)
            found.append(Aligned(np.array(answer, np.int32), own, targets.part(span)))
        return found


@dataclass(frozen=True, slots=True, eq=False)
class _Distributions:
    """The teacher's distributions at all of its tokens, normalised; rows without any are empty."""

    ids: Ints  # (N, K), -1 where padded
    probs: Floats  # (N, K)
    actual: Ints  # (N,)
    known: Flags  # (N,) the actual token is listed, so its probability is known
    _log: Floats  # (N + 1,) sums of the actual tokens' log-probabilities up to each

    @classmethod
    def of(cls, signals: Sequence[TeacherSignal], actual: Ints) -> _Distributions:
        parts = [(slice_, top) for slice_, top in _decoded(signals)]
        most = max(top.ids.shape[1] for _, top in parts)
        ids = np.full((len(actual), most), -1, np.int64)
        probs = np.zeros((len(actual), most))
        for rows, top in parts:
            width = top.ids.shape[1]
            likely = np.where(top.ids >= 0, np.exp(top.log_probs.astype(np.float64)), 0)
            total = likely.sum(1) + np.exp(top.tails.astype(np.float64))
            ids[rows, :width], probs[rows, :width] = top.ids, likely / total[:, None]
        own = (ids == actual[:, None]) & (probs > 0)
        chosen = (probs * own).sum(1)
        logs = np.log(np.where(own.any(1), chosen, 1.0))
        return cls(ids, probs, actual, own.any(1), np.concatenate([[0], np.cumsum(logs)]))

    def path(self, first: Ints, stop: Ints) -> Floats:
        """Probability of the actual tokens from `first` up to, and without, `stop`."""
        likely: Floats = np.exp(self._log[stop] - self._log[first])
        return likely


@dataclass(frozen=True, slots=True, eq=False)
class _Paths:
    """Where each aligned position's student token lies in the teacher's answer; n of them have targets."""

    positions: Ints  # (n,) of the student
    first: Ints  # (n,) the teacher's token that starts there
    until: Ints  # (n,) behind the teacher's token with which the student's is decided
    mass: Floats  # (n,) of the teacher's tokens from `first` to `until`


def _decoded(signals: Sequence[TeacherSignal]) -> Iterable[tuple[Any, TopK]]:
    """Distributions of runs of signals that share a codec, with their rows among all tokens: one call for each run."""
    start, i = 0, 0
    while i < len(signals):
        run = [signals[i]]
        while i + len(run) < len(signals) and signals[i + len(run)].codec is signals[i].codec:
            run.append(signals[i + len(run)])
        size = sum(len(signal.token_ids) for signal in run)
        if (codec := run[0].codec) is not None:
            packed = Packed.concatenate([signal.logits for signal in run if signal.logits is not None])
            yield slice(start, start + size), codec.decode(packed)
        start, i = start + size, i + len(run)


def _places(student: _Tokens, teacher: _Tokens, student_end: Flags, teacher_end: Flags) -> Ints:
    """(student tokens,): the teacher's token that starts at the same byte, -1 if none does; ends go with ends only."""
    where = np.flatnonzero(teacher.sound)
    starts = teacher.starts[where]
    at = np.minimum(np.searchsorted(starts, student.starts), len(starts) - 1) if len(starts) else None
    if at is None:
        return np.full(len(student.ids), -1, np.int64)
    fits = student.sound & (starts[at] == student.starts) & (teacher_end[where[at]] == student_end)
    return np.where(fits, where[at], -1)


def _merged(entries: tuple[Ints, Ints, Floats], n: int, most: int) -> tuple[Ints, Floats, Floats]:
    """Ids (n, K), their mass and the rest's (n,), from (row, id, mass) with repetitions; the likeliest `most` of a row."""
    rows, ids, mass = entries
    width = int(ids.max(initial=0)) + 1
    keys, back = np.unique(rows * width + ids, return_inverse=True)
    sums = np.bincount(back, mass, len(keys))
    rows, ids = keys // width, keys % width
    order = np.lexsort((ids, -sums, rows))
    rows, ids, sums = rows[order], ids[order], sums[order]
    ranks = np.arange(len(rows)) - np.searchsorted(rows, rows)
    kept = (ranks < most) & (sums > 0)
    rows, ids, sums, ranks = rows[kept], ids[kept], sums[kept], ranks[kept]
    width = int(ranks.max(initial=-1)) + 1
    found, likely = np.full((n, width), -1, np.int64), np.zeros((n, width))
    found[rows, ranks], likely[rows, ranks] = ids, sums
    return found, likely, np.maximum(1 - likely.sum(1), LEAST_REST)


def _scattered(merged: tuple[Ints, Floats, Floats], positions: Ints, n: int) -> SparseTargets:
    """Targets of all n positions; those without a path are empty."""
    found, likely, left = merged
    ids = np.full((n, found.shape[1]), -1, np.int32)
    log_probs = np.full(ids.shape, -np.inf, np.float32)
    rest, has = np.full(n, -np.inf, np.float32), np.zeros(n, np.bool_)
    total = likely.sum(1) + left
    with np.errstate(divide="ignore"):
        log_probs[positions] = np.log(likely / total[:, None])
    ids[positions], rest[positions], has[positions] = found, np.log(left / total), True
    return SparseTargets(ids, log_probs, rest, has)


def _cat(parts: Sequence[NDArray[Any]]) -> Any:
    return np.concatenate(parts)
