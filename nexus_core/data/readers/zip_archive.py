"""Zip archives, member by member; nothing is ever unpacked to the disk."""

from __future__ import annotations

import io
import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

from nexus_core.data.blob import Blob
from nexus_core.data.guard import BoundedStream, Bounds, refuse_member
from nexus_core.data.readers.members import member_chunks, refuse_doubles
from nexus_core.data.records import Chunk, Context, LoaderOptions
from nexus_core.errors import DataError

DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError)
TAIL = 22 + (1 << 16) + 76  # the end record with the longest comment, and the 64-bit form before it


def read_zip(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The chunks of every member that is data, in the order of the archive. A hostile archive yields nothing."""
    with blob.random_access(context.options.max_line_bytes) as stream:
        archive = _open(blob, stream, context.options)
        with archive:
            infos = {info.filename: info for info in archive.infolist() if not info.is_dir()}
            _check(blob, archive.infolist(), context.options)

            def member(name: str) -> Blob:
                def opener() -> BinaryIO:
                    return _member(blob, archive, infos[name], context.options)

                return Blob(f"{blob.name}!{name}", opener, infos[name].file_size, sequential=True)

            yield from member_chunks(list(infos), member, context)


def _open(blob: Blob, stream: BinaryIO, options: LoaderOptions) -> zipfile.ZipFile:
    disk, size = _end_record(stream)
    if disk:
        stem = blob.name.removesuffix(".zip")
        raise DataError(
            f"{blob.name}: the last of {disk + 1} parts of a split archive ({stem}.z01, ...)",
            f"join the parts first: zip -s 0 {blob.name} --out {stem}-joined.zip",
        )
    if size > options.max_line_bytes:
        raise DataError(f"{blob.name}: its table of contents has {size} bytes: refused", "split the archive")
    try:
        return zipfile.ZipFile(stream)
    except DAMAGE as error:
        raise DataError(
            f"{blob.name}: not a complete zip archive: {error}", "download or copy the file again; check its size"
        ) from None


def _end_record(stream: BinaryIO) -> tuple[int, int]:
    """The number of this part, from 0, and the size of the table of contents, which `zipfile` reads into memory.

    `zipfile` looks at neither. A value of all ones stands in the record of the 64-bit form, which then comes before.
    """
    end = stream.seek(0, io.SEEK_END)
    stream.seek(max(0, end - TAIL))
    tail = stream.read()
    stream.seek(0)
    at, at64 = tail.rfind(b"PK\5\6"), tail.rfind(b"PK\6\6")
    if at64 >= 0 and len(tail) >= at64 + 56:
        disk, size = struct.unpack_from("<I", tail, at64 + 16)[0], struct.unpack_from("<Q", tail, at64 + 40)[0]
    elif at >= 0 and len(tail) >= at + 22:
        disk, size = struct.unpack_from("<H", tail, at + 4)[0], struct.unpack_from("<I", tail, at + 12)[0]
    else:
        return 0, 0  # no end record: zipfile says what is wrong
    return int(disk), int(size)


def _check(blob: Blob, infos: list[zipfile.ZipInfo], options: LoaderOptions) -> None:
    refuse_doubles(blob.name, [info.filename for info in infos])
    for info in infos:
        refuse_member(blob.name, info.orig_filename)
        refuse_member(blob.name, info.filename)
        if stat.S_ISLNK(info.external_attr >> 16):
            raise DataError(f"{blob.name}: member {info.filename!r} is a symbolic link: refused", "repack the files")
        if info.flag_bits & 1:
            raise DataError(
                f"{blob.name}: member {info.filename!r} is encrypted", f"decrypt it first: unzip {blob.name}"
            )
        Bounds(f"{blob.name}!{info.filename}", info.compress_size, options).check(info.file_size)
    Bounds(blob.name, blob.size, options).check(sum(info.file_size for info in infos))


def _member(blob: Blob, archive: zipfile.ZipFile, info: zipfile.ZipInfo, options: LoaderOptions) -> BinaryIO:
    """A member's bytes; the archive is opened again when a handle outlives the iteration."""
    again = archive if archive.fp is not None else zipfile.ZipFile(blob.random_access(options.max_line_bytes))
    name = f"{blob.name}!{info.filename}"
    try:
        stream = cast(BinaryIO, again.open(info))
    except DAMAGE as error:
        raise DataError(f"{name}: damaged: {error}", "download or copy the archive again") from None
    streams = (stream,) if again is archive else (stream, cast(BinaryIO, again), cast(BinaryIO, again.fp))
    return cast(BinaryIO, BoundedStream(streams, Bounds(name, info.compress_size, options), DAMAGE))
