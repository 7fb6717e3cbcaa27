"""Hostile signal caches: every file is refused by name; none runs code, fills memory or ends in a traceback."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.errors import DataError
from nexus_core.profiling.cache import LogitCodec, Packed, SignalCache, TeacherSignal, UnitKey


class Exploit:
    def __reduce__(self):
        return os.mkdir, ("exploited",)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A sound unit's file; its entry lies beside it."""
    codec = LogitCodec(50)
    signal = TeacherSignal(
        digest="d" * 64,
        prompt="a",
        output="b",
        token_ids=np.array([3], np.int32),
        offsets=np.array([[0, 1]], np.int32),
        logits=codec.encode(np.zeros((1, 50))),
        codec=codec,
    )
    key = UnitKey("zoo", "a" * 64, "math", "train", ("d" * 64,))
    SignalCache(tmp_path).write(key, [signal])
    assert SignalCache(tmp_path).verify() == []
    return tmp_path / f"{key.digest}.npz"


def vouch(unit: Path, content: bytes) -> None:
    """Replace the unit, and make its entry agree: the hash is no defence against whoever can write both."""
    unit.write_bytes(content)
    entry = json.loads(unit.with_suffix(".json").read_text())
    entry |= {"sha256": hashlib.sha256(content).hexdigest(), "nbytes": len(content)}
    unit.with_suffix(".json").write_text(json.dumps(entry))


def refused(unit: Path) -> str:
    with pytest.raises(DataError) as caught:
        list(SignalCache(unit.parent).iterate())
    assert str(unit.stem) in caught.value.message and caught.value.hint
    assert caught.value.message in SignalCache(unit.parent).verify()
    return caught.value.message


def npz(save=np.savez, **arrays) -> bytes:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    return buffer.getvalue()


def members(unit: Path) -> dict[str, np.ndarray]:
    with np.load(unit, allow_pickle=False) as loaded:
        return {name: loaded[name] for name in loaded.files}


def test_a_pickle_in_a_unit_is_not_run(unit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    vouch(unit, npz(**members(unit) | {"tokens": np.array([Exploit()], object)}))
    assert "holds objects" in refused(unit)
    assert not (tmp_path / "exploited").exists()


def test_compressed_members_are_refused_before_they_grow(unit):
    vouch(unit, npz(np.savez_compressed, **members(unit) | {"text": np.zeros(1 << 24, np.uint8)}))
    assert "compressed" in refused(unit)


def test_a_header_that_promises_terabytes_allocates_nothing(unit):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("tokens.npy", header.getvalue())
    vouch(unit, buffer.getvalue())
    assert "larger than it is" in refused(unit)


@pytest.mark.parametrize(
    "change",
    [
        {"meta": np.frombuffer(b"[" * 100_000, np.uint8)},
        {"meta": np.frombuffer(b'{"unit": 5}', np.uint8)},
        {"meta": np.zeros(3, np.float32)},
        {"tokens": np.array([1 << 40])},
        {"tokens": np.array([-5])},
        {"tokens": np.array(["x"])},
        {"text_sizes": np.array([[-1, 7]])},
        {"text": np.full(2, 0xFF, np.uint8)},
        {"token_ids": np.array([1.5])},
        {"offsets": np.array([[0, 900]], np.int32)},
        {"logits": np.zeros(0, np.uint8)},
        {"logits": np.full(40, 255, np.uint8), "logit_sizes": np.array([40], np.uint8)},
        {"logit_sizes": np.array([255], np.uint8)},
        {"logit_sizes": np.array(7, np.uint8)},
        {"array_0_hidden_states": np.ones((2, 2), np.float32)},
    ],
)
def test_a_unit_that_lies_about_itself_is_refused(unit, change):
    vouch(unit, npz(**members(unit) | change))
    assert any(unit.stem[:12] in problem or "d" * 12 in problem for problem in SignalCache(unit.parent).verify())
    with pytest.raises(DataError):
        [signal.top_k() for signal in SignalCache(unit.parent).iterate()]


@pytest.mark.parametrize(
    "missing", ["meta", "digests", "tokens", "text_sizes", "text", "token_ids", "offsets", "logits"]
)
def test_a_missing_member_is_named(unit, missing):
    kept = members(unit)
    del kept[missing]
    vouch(unit, npz(**kept))
    assert missing in refused(unit)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x80\x04K\x01.", b"x" * 5000])
def test_what_is_no_archive_is_refused(unit, content):
    vouch(unit, content)
    assert "not a readable .npz" in refused(unit)


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "{}", "[" * 100_000, '{"samples": 5}', "\xff", '{"teacher": NaN, "samples": []}']
)
def test_an_entry_that_is_none_is_named(unit, text):
    unit.with_suffix(".json").write_text(text, "latin-1")
    with pytest.raises(DataError, match="not a manifest entry"):
        SignalCache(unit.parent).entries()


def test_a_link_out_of_the_cache_is_no_unit(unit, tmp_path):
    (tmp_path / "elsewhere.npz").symlink_to("/etc/passwd")
    assert any("elsewhere.npz has no manifest entry" in problem for problem in SignalCache(tmp_path).verify())
    assert len(list(SignalCache(tmp_path).iterate())) == 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.binary(min_size=0, max_size=120), max_size=4), st.sampled_from([2, 50, 32_000]))
def test_any_bytes_are_decoded_or_refused(tokens, vocabulary):
    data = np.frombuffer(b"".join(tokens), np.uint8)
    packed = Packed(data, np.array([len(token) for token in tokens], np.uint8))
    codec = LogitCodec(vocabulary)
    try:
        top = codec.decode(packed)
    except DataError as error:
        assert error.hint
    else:
        assert ((top.ids >= -1) & (top.ids < vocabulary)).all()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_decoded_or_refused(place, bit):
    codec = LogitCodec(500)
    packed = codec.encode(np.random.default_rng(5).normal(size=(3, 500)) * 3)
    data = packed.data.copy()
    data[place % len(data)] ^= 1 << bit
    try:
        top = codec.decode(Packed(data, packed.lengths))
    except DataError:
        return
    assert ((top.ids >= -1) & (top.ids < 500)).all()
