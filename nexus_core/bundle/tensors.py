"""Read a safetensors file in one pass: each tensor into memory of its own, and everything hashed as it comes in.

What is returned is, to the byte, what was hashed: nothing can be changed between the two, and nothing is read twice. The
library maps the file instead, which would do both; its writer is used, and tests compare the two readers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from nexus_core.bundle.disk import RESTORE, check_hash, opened
from nexus_core.bundle.manifest import FileFacts
from nexus_core.errors import ModelError

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8, "U8": torch.uint8}
DTYPES |= {"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "BOOL": torch.bool}
MOST_HEADER = 100_000_000  # the format's own limit
MOST_DIMENSIONS = 8
CHUNK = 4 << 20  # read and hashed in turn: while one is hashed the next one is read
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor of the header: its place in the data is [begin, end)."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    begin: int
    end: int


class _Digest:
    """SHA-256 of what comes in, computed by a thread of its own while more is read. Not `wanted`: none at all."""

    def __init__(self, wanted: bool) -> None:
        self._sha256 = sha256()
        self._worker = ThreadPoolExecutor(1) if wanted else None

    def __enter__(self) -> _Digest:
        return self

    def __exit__(self, *error: object) -> None:
        if self._worker is not None:
            self._worker.shutdown(cancel_futures=True)

    def update(self, block: bytes | memoryview) -> None:
        if self._worker is not None:
            self._worker.submit(self._sha256.update, block)

    def check(self, path: Path, name: str, files: Mapping[str, FileFacts]) -> None:
        """`ModelError` unless everything that came in is what was listed."""
        if self._worker is not None:
            self._worker.shutdown(wait=True)
            check_hash(path, name, files, self._sha256.hexdigest())


def read_tensors(
    path: Path, name: str, files: Mapping[str, FileFacts], verify: bool = True
) -> tuple[Tensors, dict[str, str]]:
    """Tensors and metadata of a listed file. A wrong hash, size or header is a `ModelError` that names the file."""
    with opened(path, name, files) as file, _Digest(verify) as digest:
        try:
            entries, metadata = _header(file, files[name].bytes, digest)
            tensors = dict(_data(file, entries, digest))
        except (ValueError, RecursionError) as error:
            for block in iter(lambda: file.read(CHUNK), b""):
                digest.update(block)
            digest.check(path, name, files)  # a changed file is said to be that, whatever the change broke
            raise ModelError(f"{path / name} is no safetensors file: {str(error)[:200]}", RESTORE) from error
        digest.check(path, name, files)
    return tensors, metadata


def _header(file: BinaryIO, size: int, digest: _Digest) -> tuple[list[Entry], dict[str, str]]:
    length = int.from_bytes(_take(file, 8, digest), "little")
    if length > min(MOST_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes in a file of {size:,}")
    values = json.loads(_take(file, length, digest), object_pairs_hook=_once)
    if not isinstance(values, dict):
        raise ValueError("its header is no object")
    metadata = values.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise ValueError("its metadata is no table of texts")
    entries = sorted((_entry(name, raw) for name, raw in values.items()), key=lambda entry: (entry.begin, entry.end))
    ends = [0, *(entry.end for entry in entries)]
    if [entry.begin for entry in entries] != ends[:-1] or ends[-1] != size - 8 - length:
        raise ValueError("its tensors overlap, leave gaps or do not fill the file")
    return entries, metadata


def _take(file: BinaryIO, length: int, digest: _Digest) -> bytes:
    raw = file.read(length)
    digest.update(raw)
    if len(raw) < length:
        raise ValueError("it ends too early")
    return raw


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _entry(name: str, raw: Any) -> Entry:
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"} or raw["dtype"] not in DTYPES:
        raise ValueError(f"{name[:100]!r} is no tensor of a known kind")
    shape, offsets = raw["shape"], raw["data_offsets"]
    numbers = [*shape, *offsets] if isinstance(shape, list) and isinstance(offsets, list) else [-1]
    if len(numbers) != len(shape) + 2 or any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"{name[:100]!r} has no proper shape or place")
    if len(shape) > MOST_DIMENSIONS or 0 in shape:
        raise ValueError(f"{name[:100]!r} has {len(shape)} dimensions, or is empty")
    dtype = DTYPES[raw["dtype"]]
    if offsets[1] - offsets[0] != prod(shape) * dtype.itemsize:
        raise ValueError(f"{name[:100]!r} does not fill its place")
    return Entry(name, dtype, tuple(shape), *offsets)


def _data(file: BinaryIO, entries: Sequence[Entry], digest: _Digest) -> Iterator[tuple[str, torch.Tensor]]:
    for entry in entries:
        tensor = torch.empty(entry.shape, dtype=entry.dtype)
        memory = memoryview(cast(Any, tensor.view(-1).view(torch.uint8).numpy()))
        done = 0
        while done < len(memory):
            read = file.readinto(memory[done : done + CHUNK])  # type: ignore[attr-defined]
            if not read:
                raise ValueError("it ends too early")
            digest.update(memory[done : done + read])
            done += read
        yield entry.name, tensor
