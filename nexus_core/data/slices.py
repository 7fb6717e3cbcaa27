"""A part of a seekable stream as a stream of its own."""

from __future__ import annotations

import io
from typing import BinaryIO

from nexus_core.data.guard import Bounds
from nexus_core.errors import DataError


class Slice(io.RawIOBase):
    """`size` bytes of `inner` from `start`; a negative size means to the end, which is then unknown.

    `bounds` limits how far a decompressing stream may be followed, and `largest` one single read: the header of a
    hostile archive may ask for any number of bytes. `owned`: closing this closes `inner`.
    """

    def __init__(self, inner: BinaryIO, start: int, size: int, bounds: Bounds, owned: bool = True) -> None:
        self._inner, self._start, self._size, self._bounds, self._owned = inner, start, size, bounds, owned
        self._at = 0

    def read(self, size: int = -1, /) -> bytes:
        largest = self._bounds.options.max_line_bytes + 1
        left = self._size - self._at if self._size >= 0 else largest
        wanted = max(0, left if size < 0 or (self._size >= 0 and size > left) else size)
        if wanted > largest:
            raise DataError(
                f"{self._bounds.name}: {wanted} bytes are needed at once, more than {largest - 1}",
                "raise LoaderOptions(max_line_bytes=...), or unpack the archive yourself",
            )
        self._bounds.check(self._start + self._at + wanted)
        if not wanted:
            return b""
        self._inner.seek(self._start + self._at)
        data = self._inner.read(wanted)
        self._at += len(data)
        return data

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if self._owned and not self.closed:
            self._inner.close()
        super().close()
