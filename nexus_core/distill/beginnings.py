"""Which of the student's tokens a teacher's text begins with, and whether what follows could change that.

A text is *open* while a continuation may cut it differently: after "9" the text may be "91", one token of a student that
merges digits; and "91" may be cut into 9 and 12 when a 2 follows. A cut can only move if a token of the student straddles
the text's end, so these are the continuations that are tried; those count which the teacher can say from there, that is,
whose spelling has a boundary at the text's end.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

from nexus_core.distill.vocabulary import Ints, Vocabulary

Key = tuple[bytes, bool]
"""A text, and whether it is complete: True where nothing follows."""
DIGITS = (*"0123456789", "00", "12", "77", "99")
PROBES = 256
"""Continuations tried per text, those first that a longer part of it begins. With the small vocabularies of tiny students
that is nearly all; of the thousands in a large one, any that moves the cut is enough to call a text open."""


class Beginnings:
    """Answers are remembered: a pair of vocabularies is asked the same few thousand texts again and again."""

    def __init__(self, teacher: Vocabulary, student: Vocabulary) -> None:
        self._teacher, self._student = teacher, student
        self.same = teacher.rules == student.rules  # then every token is its own beginning, and no text is open
        self._by_bytes = {token: i for i, token in reversed(list(enumerate(student.tokens))) if token}
        self._after: dict[bytes, list[bytes]] = defaultdict(list)  # start of a student's token -> what may follow in it
        for token in self._by_bytes if not self.same else ():
            for cut in range(1, len(token)):
                self._after[token[:cut]].append(token[cut:])
        self._first: dict[bytes, int] = {}
        self._open: dict[bytes, bool] = {}
        self._heads = np.full(len(teacher.tokens), -2)  # -2: not asked yet
        if self.same:
            self._heads = np.arange(len(teacher.tokens))
        self._heads[list(teacher.ends)] = student.end

    def heads(self, ids: Ints) -> Ints:
        """The student's token that each of these teacher's tokens begins with; -1 where that is not sure, or no token."""
        inside = (ids >= 0) & (ids < len(self._heads))  # a model may have more rows than its tokenizer has tokens
        asked = np.unique(ids[inside])
        new = asked[self._heads[asked] == -2]
        self._heads[new] = self.of([(self._teacher.tokens[i] or b"", False) for i in new.tolist()])
        return np.where(inside, self._heads[np.where(inside, ids, 0)], -1)

    def of(self, keys: Sequence[Key]) -> Ints:
        """The student's token that each text begins with, -1 where that is not sure."""
        self._learn(text for text, _ in keys)
        found = [self._first[text] if complete or not self._open[text] else -1 for text, complete in keys]
        return np.array(found, np.int64).reshape(-1)

    def are_open(self, texts: Sequence[bytes]) -> list[bool]:
        """Whether what follows could change what the student begins each text with."""
        if self.same:
            return [False] * len(texts)
        self._learn(texts)
        return [self._open[text] for text in texts]

    def _learn(self, texts: Iterable[bytes]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._first]
        strings = {text: string for text in new if text and (string := as_string(text)) is not None}
        firsts = dict(zip(strings, self._begin(strings.values()), strict=True))
        for text in new:
            said = self._student.bytes_of(first) if (first := firsts.get(text, -1)) >= 0 else None
            spelled = said is not None and text.startswith(said)
            self._first[text] = first if spelled else self._by_bytes.get(text, -1)
            # Part of a character is never alone; what follows decides.
            self._open[text] = text not in strings
        if not self.same:
            self._probe(strings)

    def _probe(self, texts: Iterable[bytes]) -> None:
        """Mark the texts whose beginning moves with what follows."""
        left = self._mark([(text, string) for text in texts for string in islice(self._longer(text), PROBES)])
        # Numbers are cut by rank, not from the left: more digits may give the teacher the boundary that it had not.
        numbers = [(text, string) for text, string in left if string[-1].isdigit() and not self._open[text]]
        self._mark([(text, string + digits) for text, string in numbers for digits in DIGITS])

    def _mark(self, probes: Sequence[tuple[bytes, str]]) -> list[tuple[bytes, str]]:
        """Try texts with a continuation; returns those that move the cut but that the teacher cannot say from there."""
        firsts = self._begin(string for _, string in probes)
        moved = [probe for probe, first in zip(probes, firsts, strict=True) if first != self._first[probe[0]]]
        left = []
        for (text, string), ids in zip(moved, self._teacher.encode([string for _, string in moved]), strict=True):
            if self._can_stop(ids, string.encode(), len(text)):
                self._open[text] = True
            else:
                left.append((text, string))
        return left

    def _longer(self, text: bytes) -> Iterator[str]:
        """The text with what a straddling token may add."""
        for start in range(len(text)):
            for more in self._after.get(text[start:], ()):
                if (string := as_string(text + more)) is not None:
                    yield string

    def _can_stop(self, ids: Sequence[int], text: bytes, place: int) -> bool:
        """Whether the teacher's spelling of a text has a boundary there. True where its spelling is not the text's:
        some tokenizers spell only what follows another text."""
        if self._teacher.text(ids) != text:
            return True
        sizes = [len(self._teacher.bytes_of(i) or b"") for i in ids]
        return place in np.cumsum(sizes).tolist()

    def _begin(self, strings: Iterable[str]) -> list[int]:
        return [ids[0] if ids else -1 for ids in self._student.encode(list(strings))]


def as_string(text: bytes) -> str | None:
    """The text of bytes; None for part of a character."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
