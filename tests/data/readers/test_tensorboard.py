"""TensorBoard event files, written here by the format's own definition."""

from __future__ import annotations

import struct

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.data.readers.tensorboard import crc32c
from nexus_core.errors import DataError

ASKED = LoaderOptions(tensorboard=True)


def field(number, wire, payload):
    if wire == 2:
        payload = bytes([len(payload)]) + payload
    return bytes([number << 3 | wire]) + payload


def event(step, *values):
    summary = b"".join(field(1, 2, value) for value in values)
    return field(1, 1, struct.pack("<d", 1.5e9)) + field(2, 0, bytes([step])) + field(5, 2, summary)


def simple(tag, value):
    return field(1, 2, tag.encode()) + field(2, 5, struct.pack("<f", value))


def tensor(tag, value):
    return field(1, 2, tag.encode()) + field(8, 2, field(1, 0, b"\x01") + field(5, 2, struct.pack("<f", value)))


def frame(data):
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", crc32c(head)) + data + struct.pack("<I", crc32c(data))


@pytest.fixture
def log(tmp_path):
    def write(*events):
        path = tmp_path / "events.out.tfevents.1699.host.1.0"
        version = field(1, 1, struct.pack("<d", 1.5e9)) + field(3, 2, b"brain.Event:2")
        path.write_bytes(b"".join(map(frame, (version, *events))))
        return path

    return write


def test_the_checksum_is_castagnolis():
    masked = crc32c(b"123456789")  # the check value of CRC-32C is 0xE3069283
    rotated = (masked - 0xA282EAD8) & 0xFFFFFFFF
    assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == 0xE3069283


def test_scalars_only_when_asked(log, tmp_path):
    path = log(event(1, simple("loss", 0.5), simple("lr", 0.25)), event(2, tensor("loss", 2.0), field(1, 2, b"hist")))
    with pytest.raises(DataError, match="a TensorBoard event file") as caught:
        StreamingDataLoader(path)
    assert "tensorboard=True" in caught.value.hint
    for source in (path, tmp_path):
        loader = StreamingDataLoader(source, options=ASKED)
        records = list(loader)
        assert [r[:2] for r in records] == [("loss", "0.5"), ("lr", "0.25"), ("loss", "2.0")]
        assert [r.fields["step"] for r in records] == [1, 1, 2]
        assert records[0].fields["wall_time"] == 1.5e9
        assert loader.skipped == {"TensorBoard summary that is not a scalar": 1}


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-1], lambda d: d[:-20], lambda d: d[:-8] + bytes([d[-8] ^ 1]) + d[-7:]]
)
def test_damage_is_found_by_the_checksum(log, damage):
    path = log(event(1, simple("loss", 0.5)))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="damaged or truncated event at byte"):
        list(StreamingDataLoader(path, options=ASKED))


def test_a_frame_that_is_no_event(log):
    with pytest.raises(DataError, match="not an Event message"):
        list(StreamingDataLoader(log(b"\x2a\xff\xff"), options=ASKED))


def test_an_event_that_claims_a_huge_length(log, tmp_path):
    path = tmp_path / "events.out.tfevents.1"
    head = struct.pack("<Q", 1 << 40)
    path.write_bytes(head + struct.pack("<I", crc32c(head)))
    with pytest.raises(DataError, match="an event of 1099511627776 bytes"):
        list(StreamingDataLoader(path, options=ASKED))
