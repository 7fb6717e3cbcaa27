"""A `Blob` is one readable thing: a local file, an object behind a URL, or a member of an archive."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from nexus_core.errors import DataError


@dataclass(frozen=True, slots=True)
class Blob:
    """`name` is what messages and records show; `size` is -1 where it is unknown.

    A `sequential` blob can only be read from its start to its end (an archive member, a gzip stream). A `held` one is
    kept in memory by its record. `caption` is the same-stem text beside an image; `labels` are facts that the dataset's
    layout knows about it.
    """

    name: str
    opener: Callable[[], BinaryIO]
    size: int = -1
    path: Path | None = None
    sequential: bool = False
    held: bool = False
    caption: Blob | None = None
    labels: Callable[[], dict[str, Any]] | None = None

    def open(self) -> BinaryIO:
        """The bytes, from the start."""
        try:
            return self.opener()
        except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
            raise DataError(f"{self.name}: {error.strerror or error}", "check the path and its permissions") from None

    @property
    def suffix(self) -> str:
        """The last suffix in small letters, `.jsonl` of `train.JSONL`."""
        return PurePosixPath(self.name).suffix.lower()

    def head(self, n: int = 16) -> bytes:
        """The first bytes."""
        with self.open() as stream:
            return stream.read(n)

    def random_access(self, limit: int) -> BinaryIO:
        """A stream that seeks. An archive member is held in memory for it, up to `limit` bytes, never on disk."""
        if not self.sequential:
            return self.open()
        with self.open() as stream:
            data = stream.read(limit + 1)
        if len(data) > limit:
            raise DataError(
                f"{self.name}: this format needs random access, and inside an archive it is larger than {limit} bytes",
                "unpack the archive yourself and pass the folder (or, from Python, raise LoaderOptions(max_line_bytes=...))",
            )
        return io.BytesIO(data)


def local_blob(path: Path, name: str = "") -> Blob:
    """The file at `path`."""
    return Blob(name or path.as_posix(), lambda: cast(BinaryIO, path.open("rb")), path.stat().st_size, path)
