"""What is refused, by name or by content: pickles, disguised files, hostile archive members, decompression bombs."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

from nexus_core.data.records import MIB, LoaderOptions
from nexus_core.errors import DataError

PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".dill", ".npy", ".npz"})
ARCHIVES = frozenset({".zip", ".tar", ".gz", ".tgz", ".7z", ".rar", ".bz2", ".xz", ".zst", ".lz4", ".tbz2", ".txz"})
SPLIT_PART = re.compile(r"\.(z\d\d|zip\.\d{3}|part\d+\.rar)$", re.IGNORECASE)
BOMB_FLOOR = 16 * MIB  # a ratio means nothing for small files: 10 KB of zeros compress a thousand times

MAGIC: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern, re.DOTALL), what)
    for pattern, what in (
        (rb"\x80[\x02-\x05]", "a Python pickle"),
        (rb"PK\x03\x04|PK\x05\x06", "a zip archive"),
        (rb"\x1f\x8b", "gzip data"),
        (rb"PAR1", "Parquet"),
        (rb"ARROW1", "an Arrow file"),
        (rb"RIFF....WAVE", "WAV audio"),
        (rb"RIFF....WEBP", "a WebP image"),
        (rb"ID3|\xff[\xfb\xf3\xf2]", "MP3 audio"),
        (rb"fLaC", "FLAC audio"),
        (rb"OggS", "Ogg audio"),
        (rb"\x89PNG", "a PNG image"),
        (rb"\xff\xd8\xff", "a JPEG image"),
        (rb"....ftyp", "MP4 video"),
        (rb"7z\xbc\xaf|Rar!|BZh|\xfd7zXZ|\x28\xb5\x2f\xfd", "a compressed archive"),
        (rb"GGUF|\x89HDF", "model weights"),
    )
)


def sniff(head: bytes) -> str:
    """What binary format `head` begins, or "" when it may be text."""
    return next((what for pattern, what in MAGIC if pattern.match(head)), "")


def refuse_disguise(name: str, head: bytes, wanted: str) -> None:
    """`DataError` when a file that should hold text holds something else."""
    what = sniff(head)
    if what:
        raise DataError(
            f"{name}: {wanted} is expected here, but the content is {what}",
            "give the file the suffix of its true format, or take it out of the dataset",
        )


def refuse_pickle(name: str) -> None:
    """`DataError` for a file type that runs code, or may, when it is read."""
    if PurePosixPath(name).suffix.lower() in PICKLES:
        raise DataError(
            f"{name}: refused, a {PurePosixPath(name).suffix} file can run code when it is read",
            "convert it, where you trust it, to .parquet or .jsonl",
        )


def refuse_split(name: str) -> None:
    """`DataError` for one part of a split archive, that tells how to join the parts."""
    match = SPLIT_PART.search(name)
    if match is None:
        return
    stem = name[: match.start()]
    by_zip = match[1].lower().startswith("z") and not match[1].lower().startswith("zip")
    join = f"zip -s 0 {stem}.zip --out {stem}-joined.zip" if by_zip else f"cat {stem}.zip.* > {stem}-joined.zip"
    if match[1].lower().endswith("rar"):
        join = f"unrar x {stem}.part1.rar"
    raise DataError(f"{name}: one part of a split archive, not readable alone", f"join the parts first: {join}")


def refuse_member(archive: str, name: str) -> None:
    """`DataError` for a member whose name leaves the archive, or that is an archive itself."""
    parts = re.split(r"[/\\]", name)
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name) or ".." in parts or "\0" in name:
        raise DataError(
            f"{archive}: member {name!r} has a path that leaves the archive",
            "this archive is malformed or hostile: get it from its source again, or repack the files",
        )
    if PurePosixPath(name).suffix.lower() in ARCHIVES:
        raise DataError(f"{archive}: member {name!r} is an archive inside an archive", "unpack the outer one yourself")


@dataclass(slots=True)
class Bounds:
    """How much one compressed source has given so far, against what it may give."""

    name: str
    compressed: int
    options: LoaderOptions
    given: int = 0

    def add(self, n: int) -> None:
        """Count `n` bytes more; `DataError` where the source proves to be a bomb."""
        self.given += n
        self.check(self.given)

    def check(self, expanded: int) -> None:
        """`DataError` when `expanded` bytes are more than this source may become."""
        limit = self.options.max_expanded_bytes
        if expanded > limit:
            raise DataError(
                f"{self.name}: expands to more than {limit} bytes: refused as a decompression bomb",
                "if you trust it, unpack it yourself (or, from Python, raise LoaderOptions(max_expanded_bytes=...))",
            )
        if self.compressed >= 0 and expanded > max(BOMB_FLOOR, self.compressed * self.options.max_ratio):
            raise DataError(
                f"{self.name}: expands more than {self.options.max_ratio} times ({self.compressed} bytes compressed):"
                " refused as a decompression bomb",
                "if you trust it, unpack it yourself (or, from Python, raise LoaderOptions(max_ratio=...))",
            )


class BoundedStream(io.RawIOBase):
    """A decompressing stream that counts what it gives, and turns damage into `DataError`."""

    def __init__(self, streams: tuple[BinaryIO, ...], bounds: Bounds, damage: tuple[type[Exception], ...]) -> None:
        """Reads the first of `streams`; owns, and closes, all of them."""
        self._streams = streams
        self._bounds = bounds
        self._damage = damage

    def read(self, size: int = -1, /) -> bytes:
        try:
            data = self._streams[0].read(size)
        except self._damage as error:
            raise DataError(
                f"{self._bounds.name}: damaged or truncated after {self._bounds.given} bytes ({str(error) or 'cut off'})",
                "download or copy the file again; check its size",
            ) from None
        self._bounds.add(len(data))
        return data

    def readable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            for stream in self._streams:
                stream.close()
        super().close()
