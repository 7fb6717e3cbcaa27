"""Gzip around another format: `train.jsonl.gz` is read as JSON lines, as a stream."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO, cast

from nexus_core.data.blob import Blob
from nexus_core.data.guard import BoundedStream, Bounds, refuse_pickle
from nexus_core.data.records import Chunk, Context, LoaderOptions
from nexus_core.errors import DataError

DAMAGE = (EOFError, zlib.error, OSError)


def read_gz(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The inner format's chunks; a position in it is found by reading from the start."""
    from nexus_core.data.readers import READERS  # the table names this function

    inner = PurePosixPath(blob.name).stem
    suffix = PurePosixPath(inner).suffix.lower()
    refuse_pickle(inner)
    if suffix == ".tar":
        return READERS[suffix](blob, context)
    if suffix not in READERS or suffix in (".gz", ".zip", ".tgz"):
        raise DataError(
            f"{blob.name}: cannot tell what is inside: {suffix or 'no suffix'} before .gz",
            "name it after its content, such as train.jsonl.gz",
        )
    return READERS[suffix](gunzipped(blob, context.options), context)


def gunzipped(blob: Blob, options: LoaderOptions) -> Blob:
    """The decompressed side of a gzip blob, bounded."""

    def opener() -> BinaryIO:
        raw = blob.open()
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw, mode="rb"))
        return cast(BinaryIO, BoundedStream((stream, raw), Bounds(blob.name, blob.size, options), DAMAGE))

    return Blob(blob.name, opener, sequential=True)
