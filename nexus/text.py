"""Tokens to text as they are written. What has been handed out is never taken back, and nothing is handed out too early:
no half of a character, no beginning of what may become a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

Decode = Callable[[list[int]], str]
BROKEN = "\N{REPLACEMENT CHARACTER}"  # what a decoder writes for bytes that are no character, or not yet


class Characters:
    """Whole characters of a growing row of tokens.

    A token's text may depend on the one before it (a blank that only a first word loses), so each piece is the
    difference between two decodings that begin alike; only as many tokens are decoded again as the piece needs.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._tokens: list[int] = []  # those of the last piece, then those that have not become text
        self._known = 0  # how many of them are of the last piece
        self._before = ""  # its text

    def push(self, token: int) -> str:
        """The text that this token completes; nothing where it ends inside a character."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        return "" if text.endswith(BROKEN) else self._piece(text)

    def rest(self) -> str:
        """What is left at the end of the answer, whole or not."""
        return self._piece(self._decode(self._tokens))

    def _piece(self, text: str) -> str:
        piece = text[len(self._before) :]
        if piece:
            self._tokens = self._tokens[self._known :]
            self._known, self._before = len(self._tokens), self._decode(self._tokens)
        return piece


class Answer:
    """The text of one answer up to its first stop string."""

    def __init__(self, decode: Decode, stop: Sequence[str]) -> None:
        self._characters = Characters(decode)
        self._stop = tuple(stop)
        self._held = ""  # may be the beginning of a stop string
        self.ended = False  # a stop string was written

    def push(self, token: int) -> str:
        """What can be handed out after this token."""
        return self._add(self._characters.push(token), last=False)

    def rest(self) -> str:
        """What was held back, at the end of the answer."""
        return self._add(self._characters.rest(), last=True)

    def _add(self, piece: str, last: bool) -> str:
        if self.ended:
            return ""
        text = self._held + piece
        met = [place for word in self._stop if (place := text.find(word)) >= 0]
        if met:
            self.ended = True
            return text[: min(met)]
        safe = len(text) if last else len(text) - self._beginning(text)
        self._held = text[safe:]
        return text[:safe]

    def _beginning(self, text: str) -> int:
        """How many characters at the end of `text` are the beginning of a stop string, at the most."""
        longest = min(len(text), max(map(len, self._stop), default=1) - 1)
        return next((n for n in range(longest, 0, -1) if any(word.startswith(text[-n:]) for word in self._stop)), 0)
