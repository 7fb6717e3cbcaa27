"""TensorBoard event files: records framed with CRCs, holding `Event` messages. Only scalars, only when asked.

Frame: length (u64), its masked CRC32C, data, its masked CRC32C. Sources: tensorflow/core/lib/io/record_writer.h,
tensorflow/core/util/event.proto and summary.proto (field numbers below).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

from nexus_core.data.blob import Blob
from nexus_core.data.records import Chunk, Context
from nexus_core.errors import DataError

ROWS = 256
_TABLE: list[int] = []


def read_tensorboard(blob: Blob, context: Context) -> Iterator[Chunk]:
    """One row per scalar: the tag is the input, the value the target; step and wall time are fields."""
    rows: list[dict[str, Any]] = []
    first = size = 0
    with blob.open() as stream:
        for event in _frames(blob, stream, context.options.max_line_bytes):
            for row in _scalars(blob, event):
                if row is None:
                    context.skipped["TensorBoard summary that is not a scalar"] += 1
                else:
                    rows.append(row)
            size += len(event)
            if len(rows) >= ROWS:
                yield Chunk(blob.name, rows, first, size, mapped=True)
                first += len(rows)
                rows, size = [], 0
    if rows:
        yield Chunk(blob.name, rows, first, size, mapped=True)


def crc32c(data: bytes) -> int:
    """Castagnoli's CRC, masked as TensorFlow masks it."""
    if not _TABLE:
        for n in range(256):
            value = n
            for _ in range(8):
                value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
            _TABLE.append(value)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _frames(blob: Blob, stream: BinaryIO, limit: int) -> Iterator[bytes]:
    offset = 0
    while head := stream.read(12):
        if len(head) < 12 or crc32c(head[:8]) != struct.unpack("<I", head[8:])[0]:
            raise _broken(blob, offset)
        length = struct.unpack("<Q", head[:8])[0]
        if length > limit:
            raise DataError(
                f"{blob.name}: an event of {length} bytes at byte {offset}",
                "take the file out (or, from Python, raise LoaderOptions(max_line_bytes=...))",
            )
        body = stream.read(length + 4)
        data = body[:length]
        if len(body) < length + 4 or crc32c(data) != struct.unpack("<I", body[length:])[0]:
            raise _broken(blob, offset)
        yield data
        offset += 16 + length


def _broken(blob: Blob, offset: int) -> DataError:
    return DataError(
        f"{blob.name}: damaged or truncated event at byte {offset} (checksum)",
        "copy the log again, or remove the run that was cut off",
    )


def _scalars(blob: Blob, event: bytes) -> Iterator[dict[str, Any] | None]:
    """The scalar values of one Event; None for each other kind of value."""
    try:
        message = dict(_fields(event))
        wall = struct.unpack("<d", message[1])[0] if 1 in message else 0.0
        step = message.get(2, 0)
        for number, value in _fields(message.get(5, b"")):  # Event.summary = 5, Summary.value = 1
            if number == 1:
                one = dict(_fields(value))
                tag, scalar = one.get(1, b"").decode("utf-8"), _scalar(one)
                fields = {"tag": tag, "value": scalar, "step": step, "wall_time": wall}
                yield None if scalar is None else {"input": tag, "target": repr(scalar), **fields}
    except (IndexError, struct.error, AttributeError, TypeError, UnicodeDecodeError) as error:
        raise DataError(f"{blob.name}: not an Event message: {error}", "this is no TensorBoard log") from None


def _scalar(value: dict[int, Any]) -> float | None:
    """Summary.Value: simple_value = 2; tensor = 8, whose dtype = 1, tensor_content = 4, float_val = 5."""
    if 2 in value:
        return float(struct.unpack("<f", value[2])[0])
    tensor = dict(_fields(value.get(8, b"")))
    content = tensor.get(5) or tensor.get(4) or b""
    if tensor.get(1) == 1 and len(content) == 4:  # DT_FLOAT, one element
        return float(struct.unpack("<f", content)[0])
    return None


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """The fields of a protocol buffer message: numbers, or bytes for all other wire types."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        wire = key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise IndexError(f"wire type {wire}")
        if at + length > len(message):
            raise IndexError("a field runs past the end")
        yield key >> 3, message[at : at + length]
        at += length


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if not byte & 0x80:
            return value, at
