"""The first facts of a GGUF file, read from its header without loading anything.

Layout (little-endian): magic "GGUF", u32 version, u64 tensors, u64 key-value pairs, then the pairs: string key, u32 type,
value. Writers put `general.architecture` first, so the arrays (a vocabulary of 50,000 strings) are never reached.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

from nexus_core.errors import ModelError

MAGIC = b"GGUF"
STRING = 8
# GGUF value type -> bytes of the scalar: u8 i8 u16 i16 u32 i32 f32 bool, then u64 i64 f64.
SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
MAX_STRING = 1 << 20  # a longer key or architecture is a damaged length field


def architecture(path: Path) -> str | None:
    """`general.architecture` of a GGUF file; None if it is not one. A damaged header is a `ModelError`."""
    with path.open("rb") as file:
        if file.read(4) != MAGIC:
            return None
        try:
            version, _, pairs = struct.unpack("<IQQ", _exactly(file, 20))
            if version not in (2, 3):
                raise ModelError(f"{path}: GGUF version {version} is not supported", "convert it to version 3")
            for _ in range(min(pairs, 64)):
                key = _string(file)
                (kind,) = struct.unpack("<I", _exactly(file, 4))
                if kind == STRING:
                    value = _string(file)
                    if key == "general.architecture":
                        return value
                elif kind in SCALAR_BYTES:
                    _exactly(file, SCALAR_BYTES[kind])
                else:
                    break  # an array: whatever follows is no longer the header's beginning
        except (struct.error, UnicodeDecodeError, EOFError) as error:
            raise ModelError(f"{path}: damaged GGUF header ({error})", "download the file again") from error
    raise ModelError(f"{path}: the GGUF header names no architecture", "download the file again")


def _string(file: BinaryIO) -> str:
    (length,) = struct.unpack("<Q", _exactly(file, 8))
    if length > MAX_STRING:
        raise EOFError(f"a string of {length:,} bytes")
    return _exactly(file, length).decode("utf-8")


def _exactly(file: BinaryIO, n: int) -> bytes:
    data = file.read(n)
    if len(data) != n:
        raise EOFError("the file ends inside it")
    return data
