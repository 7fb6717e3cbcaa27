"""Text as bounded windows of whole lines, in UTF-8 whatever Unicode form the file has."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO, cast

from nexus_core.data.blob import Blob
from nexus_core.data.guard import refuse_disguise
from nexus_core.data.records import Start
from nexus_core.errors import DataError

WINDOW = 1 << 16  # small enough that the rows of a window stay in the processor's cache: 1 MiB is 1.5 times slower
UTF16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}


@dataclass(frozen=True, slots=True)
class Window:
    """Whole lines without their `\\n`; the first begins at byte `offset`. `seekable`: the file can be entered there."""

    offset: int
    size: int
    lines: list[bytes]
    seekable: bool


class _Utf16(io.RawIOBase):
    """UTF-16 read as UTF-8."""

    def __init__(self, inner: BinaryIO, name: str, encoding: str, consumed: int) -> None:
        self._inner, self._name, self._consumed = inner, name, consumed
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int = -1, /) -> bytes:
        while True:
            data = self._inner.read(WINDOW if size < 0 else max(2, size // 2))
            pending = len(self._decoder.getstate()[0])
            try:
                text = self._decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise undecodable(self._name, self._consumed - pending + error.start, "UTF-16") from None
            self._consumed += len(data)
            if text or not data:
                return text.encode("utf-8", "surrogatepass")

    def readable(self) -> bool:
        return True


def undecodable(name: str, offset: int, encoding: str = "UTF-8") -> DataError:
    """The error for bytes that are not text."""
    return DataError(
        f"{name}: the byte at offset {offset} is not {encoding}",
        "convert the file: iconv -f LATIN1 -t UTF-8 FILE > NEW (UTF-8, and UTF-16 with a byte order mark, are read)",
    )


def check_utf8(name: str, line: bytes, offset: int) -> None:
    """`DataError` with the byte offset when `line`, which starts at `offset`, is not UTF-8."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise undecodable(name, offset + error.start) from None


def decode_lines(name: str, window: Window) -> list[str]:
    """The window's lines as text; `DataError` with the byte offset where they are not."""
    try:
        return b"\n".join(window.lines).decode("utf-8").split("\n") if window.lines else []
    except UnicodeDecodeError as error:
        raise undecodable(name, window.offset + error.start) from None


@contextmanager
def _opened(blob: Blob, start: Start, wanted: str) -> Iterator[tuple[BinaryIO, bytes, int, bool]]:
    """The stream, as UTF-8, behind its byte order mark; what was read of it; its offset; whether that can be sought."""
    with blob.open() as opened:
        if start.offset:
            opened.seek(start.offset)
            yield opened, b"", start.offset, True
            return
        head = _read_full(opened, 16)
        if head[:2] in UTF16:
            raw = cast(BinaryIO, _Joined(head[2:], opened))
            yield cast(BinaryIO, _Utf16(raw, blob.name, UTF16[head[:2]], 2)), b"", 0, False
        elif head.startswith(codecs.BOM_UTF8):
            yield opened, head[3:], 3, not blob.sequential
        else:
            refuse_disguise(blob.name, head, wanted)
            yield opened, head, 0, not blob.sequential


def windows(blob: Blob, start: Start, limit: int, wanted: str) -> Iterator[Window]:
    """The lines of `blob` from `start`, in windows of about `WINDOW` bytes; a line longer than `limit` is an error.

    A window is what fits in `WINDOW` bytes from its offset, or one longer line: it does not depend on where reading
    began. Memory is bounded by `limit`.
    """
    with _opened(blob, start, wanted) as (stream, carry, offset, seekable):
        for window in _split(stream, carry, offset, limit, blob.name):
            yield window if seekable else Window(window.offset, window.size, window.lines, False)


def pieces(blob: Blob, wanted: str) -> Iterator[str]:
    """The text of `blob` in pieces of about `WINDOW` bytes, whatever its lines."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with _opened(blob, Start(), wanted) as (stream, data, offset, _):
        ended = False
        while not ended:
            pending = len(decoder.getstate()[0])
            try:
                yield decoder.decode(data, final=False)
            except UnicodeDecodeError as error:
                raise undecodable(blob.name, offset - pending + error.start) from None
            offset += len(data)
            data = stream.read(WINDOW)
            ended = not data
        if decoder.getstate()[0]:
            raise undecodable(blob.name, offset - len(decoder.getstate()[0]))


def _split(stream: BinaryIO, carry: bytes, offset: int, limit: int, name: str) -> Iterator[Window]:
    ended = False
    while not ended:
        parts = [carry]
        length = len(carry)
        found = len(carry) >= WINDOW and b"\n" in carry
        while not found and not ended:
            data = _read_full(stream, max(WINDOW - length, 0) or WINDOW)
            ended = not data
            found = b"\n" in data or (len(parts) == 1 and b"\n" in carry)
            parts.append(data)
            length += len(data)
            if length > limit + WINDOW and not found:
                raise _too_long(name, offset, limit)
        lines = b"".join(parts).split(b"\n")
        carry = b"" if ended else lines.pop()
        if ended and lines[-1] == b"":
            lines.pop()
        size = length - len(carry)
        if size > limit and max(map(len, lines)) > limit:
            raise _too_long(name, offset, limit)
        if lines:
            yield Window(offset, size, lines, True)
        offset += size


def _too_long(name: str, offset: int, limit: int) -> DataError:
    return DataError(
        f"{name}: a line in the window that starts at byte {offset} is longer than {limit} bytes",
        "repair the file or split the line; if it is right, raise LoaderOptions(max_line_bytes=...) from Python",
    )


def _read_full(stream: BinaryIO, n: int) -> bytes:
    """Exactly `n` bytes unless the stream ends: a short read would move the bounds of a window."""
    data = stream.read(n)
    if len(data) == n or not data:
        return data
    parts = [data]
    length = len(data)
    while length < n and (data := stream.read(n - length)):
        parts.append(data)
        length += len(data)
    return b"".join(parts)


class _Joined(io.RawIOBase):
    """A stream with its first bytes put back."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head, self._rest = head, rest

    def read(self, size: int = -1, /) -> bytes:
        if self._head:
            data, self._head = (self._head, b"") if size < 0 else (self._head[:size], self._head[size:])
            return data
        return self._rest.read(size)
