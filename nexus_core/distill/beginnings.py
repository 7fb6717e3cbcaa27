"""Which of the student's tokens a teacher's text begins with, and whether what follows could change that.

A text is *open* where a student's token is longer than it and the teacher spells that token through it: after "9" the
text may be "91", one token of a student that merges digits. Nobody can say then what the student begins with.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from nexus_core.distill.vocabulary import Ints, Vocabulary

Key = tuple[bytes, bool]
"""A text, and whether it is complete: True where nothing follows."""
_DIGITS = tuple("0123456789")


class Beginnings:
    """Answers are remembered: a pair of vocabularies is asked the same few thousand texts again and again."""

    def __init__(self, teacher: Vocabulary, student: Vocabulary) -> None:
        self._teacher, self._student = teacher, student
        self._by_bytes = {token: i for i, token in reversed(list(enumerate(student.tokens))) if token}
        self._known: dict[Key, int] = {}
        same = teacher.rules == student.rules
        self.open = frozenset[bytes]() if same else _open_texts(teacher, student)
        self._heads = np.arange(len(teacher.tokens)) if same else self._head_table()
        self._heads[list(teacher.ends)] = student.end

    def heads(self, ids: Ints) -> Ints:
        """The student's token that each of these teacher's tokens begins with; -1 where that is not sure, or no token."""
        inside = (ids >= 0) & (ids < len(self._heads))  # a model may have more rows than its tokenizer has tokens
        return np.where(inside, self._heads[np.where(inside, ids, 0)], -1)

    def of(self, keys: Sequence[Key]) -> Ints:
        """The student's token that each text begins with, -1 where that is not sure."""
        self._learn(keys)
        return np.array([self._known[key] for key in keys], np.int64).reshape(-1)

    def _head_table(self) -> Ints:
        tokens = self._teacher.tokens
        self._learn((token, False) for token in tokens if token)
        return np.array([self._known[token, False] if token else -1 for token in tokens], np.int64)

    def _learn(self, keys: Iterable[Key]) -> None:
        ask: list[tuple[Key, str]] = []
        for text, complete in dict.fromkeys(keys):
            if (text, complete) in self._known:
                continue
            self._known[text, complete] = -1
            if not complete and text in self.open:
                continue
            if text in self._by_bytes:
                self._known[text, complete] = self._by_bytes[text]
            elif (string := as_string(text)) is not None:
                ask.append(((text, complete), string))
        firsts = self._first([string for _, string in ask])
        for (key, _), first in zip(ask, firsts, strict=True):
            said = self._student.bytes_of(first)
            self._known[key] = first if said and key[0].startswith(said) else -1
        self._distrust_numerals([(key, string) for key, string in ask if not key[1] and string[-1:] in _DIGITS])

    def _distrust_numerals(self, asked: Sequence[tuple[Key, str]]) -> None:
        """A number in several tokens may be cut elsewhere when a digit follows ("918": 9 18, but "9185": 91 85)."""
        firsts = self._first([string + digit for _, string in asked for digit in _DIGITS])
        for i, (key, _) in enumerate(asked):
            if set(firsts[i * len(_DIGITS) : (i + 1) * len(_DIGITS)]) != {self._known[key]}:
                self._known[key] = -1

    def _first(self, strings: Sequence[str]) -> list[int]:
        return [ids[0] if ids else -1 for ids in self._student.encode(strings)]


def _open_texts(teacher: Vocabulary, student: Vocabulary) -> frozenset[bytes]:
    """Of all tokens of the student: where the teacher stands while it spells them."""
    longer = [token for token in dict.fromkeys(student.tokens) if token and len(token) > 1]
    strings = {token: string for token in longer if (string := as_string(token)) is not None}
    spelled = dict(zip(strings, teacher.encode(list(strings.values())), strict=True))
    found: set[bytes] = set()
    for token in longer:
        ids = spelled.get(token)
        if ids is not None and teacher.text(ids) == token:
            sizes = [len(teacher.bytes_of(i) or b"") for i in ids]
            found.update(token[:end] for end in np.cumsum(sizes)[:-1].tolist())
        else:  # part of a character, or what this tokenizer spells only after another text: it may stand anywhere
            found.update(token[:end] for end in range(1, len(token)))
    return frozenset(found)


def as_string(text: bytes) -> str | None:
    """The text of bytes; None for part of a character."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return None
