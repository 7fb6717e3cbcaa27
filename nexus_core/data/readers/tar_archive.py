"""Tar archives, plain or gzipped, member by member; nothing is ever unpacked to the disk."""

from __future__ import annotations

import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO, cast

from nexus_core.data.blob import Blob
from nexus_core.data.guard import Bounds, refuse_member
from nexus_core.data.kinds import modality_of
from nexus_core.data.readers.members import member_chunks, refuse_doubles
from nexus_core.data.records import Chunk, Context
from nexus_core.data.slices import Slice
from nexus_core.errors import DataError

DAMAGE = (tarfile.TarError, zlib.error, EOFError, OSError)
Extent = tuple[int, int]  # where a member's bytes start, and how many they are


def read_tar(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The chunks of every member that is data, in the order of the archive. A hostile archive yields nothing.

    The headers are read first, the members afterwards: a gzipped tar is decompressed twice.
    """
    zipped = blob.suffix in (".gz", ".tgz")
    try:
        with _seekable(blob, context, zipped) as stream:
            extents = _contents(blob, stream)
            if zipped:
                _refuse_captions(blob, extents)
        with _seekable(blob, context, zipped) as stream:
            shared = cast(BinaryIO, stream)

            def member(name: str) -> Blob:
                return _zipped_member(blob, shared, name, extents[name], context)

            def part(name: str) -> Blob:
                return _plain_member(blob, name, extents[name], context)

            yield from member_chunks(list(extents), member if zipped else part, context)
    except DAMAGE as error:
        raise DataError(
            f"{blob.name}: damaged or truncated: {error}", "download or copy the file again; check its size"
        ) from None


def _seekable(blob: Blob, context: Context, zipped: bool) -> Slice:
    bounds = Bounds(blob.name, blob.size if zipped else -1, context.options)
    raw = blob.random_access(context.options.max_line_bytes)
    return Slice(cast(BinaryIO, _OwnedGzip(raw)) if zipped else raw, 0, -1, bounds)


class _OwnedGzip(gzip.GzipFile):
    """A gzip stream that closes the file beneath it."""

    def __init__(self, raw: BinaryIO) -> None:
        super().__init__(fileobj=raw, mode="rb")
        self._raw = raw

    def close(self) -> None:
        super().close()
        self._raw.close()


def _contents(blob: Blob, stream: Slice) -> dict[str, Extent]:
    """Every member's place, after all of them were found harmless and the archive complete."""
    extents: dict[str, Extent] = {}
    names: list[str] = []
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for info in archive:
            archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
            refuse_member(blob.name, info.name)
            if info.isdir():
                continue
            if not info.isreg() or info.issparse():
                raise DataError(
                    f"{blob.name}: member {info.name!r} is a link, a device or a sparse file: refused",
                    "repack the files: tar --dereference -cf NEW.tar FOLDER",
                )
            name = info.name.removeprefix("./")
            names.append(name)
            extents[name] = (info.offset_data, info.size)
        end = archive.offset
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE) != b"\0" * tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no end mark")  # tarfile takes a cut in or before a header for the end
    refuse_doubles(blob.name, names)
    return extents


def _plain_member(blob: Blob, name: str, extent: Extent, context: Context) -> Blob:
    def opener() -> BinaryIO:
        bounds = Bounds(f"{blob.name}!{name}", -1, context.options)
        raw = blob.random_access(context.options.max_line_bytes)
        return cast(BinaryIO, io.BufferedReader(Slice(raw, *extent, bounds)))

    return Blob(f"{blob.name}!{name}", opener, extent[1])


def _zipped_member(blob: Blob, shared: BinaryIO, name: str, extent: Extent, context: Context) -> Blob:
    """A member of the stream that is being read; media are held in memory, since their handles outlive it."""
    bounds = Bounds(blob.name, blob.size, context.options)
    full = f"{blob.name}!{name}"

    def opener() -> BinaryIO:
        return cast(BinaryIO, Slice(shared, *extent, bounds, owned=False))

    member = Blob(full, opener, extent[1], sequential=True)
    if modality_of(name) not in ("audio", "image", "video"):
        return member
    data = member.random_access(context.options.max_line_bytes).read()
    return replace(member, opener=lambda: cast(BinaryIO, io.BytesIO(data)), sequential=False, held=True)


def _refuse_captions(blob: Blob, extents: dict[str, Extent]) -> None:
    for name in extents:
        if modality_of(name) == "image" and f"{name.rpartition('.')[0]}.txt" in extents:
            raise DataError(
                f"{blob.name}: images with captions in a compressed tar would have to be read back and forth",
                f"decompress it first: gunzip --keep {blob.name}",
            )
