"""Encodings, windows, long lines, disguised files."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.data.blob import Blob
from nexus_core.data.records import Start
from nexus_core.data.text import WINDOW, windows
from nexus_core.errors import DataError

LINES = [json.dumps({"input": f"grün {i} 日本 😀", "target": "é"}, ensure_ascii=False) for i in range(4000)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_unicode_forms_are_read_alike(tmp_path, encoding, suffix, newline):
    lines = LINES
    if suffix == "json":
        lines = ["[", ",\n".join(LINES), "]"]
    elif suffix == "csv":
        lines = ["input,target", *(f"grün {i} 日本 😀,é" for i in range(4000))]
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    path = tmp_path / f"a.{suffix}"
    path.write_bytes((mark + newline.join(lines) + newline).encode(encoding))
    records = list(StreamingDataLoader(path))
    assert len(records) == 4000
    expected = LINES if suffix == "txt" else [f"grün {i} 日本 😀" for i in range(4000)]
    assert [r.input for r in records] == expected


def test_a_folder_of_mixed_encodings(tmp_path):
    for name, encoding in (("a", "utf-8"), ("b", "utf-8-sig"), ("c", "utf-16")):
        (tmp_path / f"{name}.jsonl").write_text('{"input": "ü", "target": "ß"}\n', encoding=encoding)
    assert {r[:2] for r in StreamingDataLoader(tmp_path)} == {("ü", "ß")}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv", "txt"])
@pytest.mark.parametrize("before", [0, 5000])
def test_undecodable_bytes_name_file_and_offset(tmp_path, suffix, before):
    good = b'{"input": "a", "target": "b"}\n' if suffix.startswith("json") else b"input,target\n"
    start = b"[" + (good + b",") * before if suffix == "json" else good * before
    bad = b'{"input": "caf\xe9", "target": "b"}\n' if suffix.startswith("json") else b"caf\xe9,x\n"
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(start + bad + (b"]" if suffix == "json" else b""))
    offset = path.read_bytes().index(b"\xe9")
    with pytest.raises(DataError, match=rf"a\.{suffix}: the byte at offset {offset} is not UTF-8") as caught:
        list(StreamingDataLoader(path))
    assert "iconv" in caught.value.hint


def test_undecodable_utf16(tmp_path):
    path = tmp_path / "a.txt"
    good = "line\n" * 3000
    path.write_bytes(good.encode("utf-16") + b"\x00\xd8\x41\x00")  # a high surrogate without its partner
    with pytest.raises(DataError, match=r"offset 30002 is not UTF-16"):
        list(StreamingDataLoader(path))


def test_line_breaks_inside_unicode_are_not_line_breaks(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"input": "a\u2028b\x85c", "target": ""}\n' * 3, encoding="utf-8")
    assert [r.input for r in StreamingDataLoader(path)] == ["a\u2028b\x85c"] * 3


@pytest.mark.parametrize("end", ["", "\n"])
@pytest.mark.parametrize("length", [WINDOW - 1, WINDOW, WINDOW + 1, 3 * WINDOW + 17])
def test_lines_at_the_bounds_of_a_window(tmp_path, length, end):
    path = tmp_path / "a.txt"
    lines = ["x" * length, "y" * 10, "z" * length, "w"]
    path.write_text("\n".join(lines) + end)
    assert [r.input for r in StreamingDataLoader(path)] == lines


def test_windows_do_not_depend_on_where_reading_began(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join("v" * (i * 7919 % 3000) + "\n" for i in range(500)) + "u" * 200_000 + "\nend")
    blob = Blob("a", lambda: path.open("rb"))
    everything = list(windows(blob, Start(), 1 << 20, "text"))
    assert b"\n".join(b"\n".join(w.lines) for w in everything) == path.read_bytes()
    for n, window in enumerate(everything[1:], 1):
        assert list(windows(blob, Start(offset=window.offset), 1 << 20, "text")) == everything[n:]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt"])
def test_a_line_over_the_limit_is_refused_in_bounded_memory(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with path.open("wb") as stream:
        stream.write({"jsonl": b'{"input": "', "json": b'[{"input": "'}.get(suffix, b"a"))
        for _ in range(100):
            stream.write(b"x" * (1 << 20))
    options = LoaderOptions(max_line_bytes=4 << 20)
    tracemalloc.start()
    with pytest.raises(DataError, match="longer than 4194304 bytes") as caught:
        list(StreamingDataLoader(path, options=options))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 << 20
    assert "max_line_bytes" in caught.value.hint


@pytest.mark.slow
def test_a_line_of_100_mb_with_the_defaults(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"input": "a", "target": "b"}\n{"input": "' + b"x" * 100_000_000 + b'", "target": "b"}\n')
    with pytest.raises(DataError, match="byte 30 is longer than 67108864 bytes"):
        list(StreamingDataLoader(path))


def test_small_limits_hold_inside_a_window(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("short\n" + "x" * 200 + "\n")
    with pytest.raises(DataError, match="longer than 100 bytes"):
        list(StreamingDataLoader(path, options=LoaderOptions(max_line_bytes=100)))


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (b"RIFF\x24\x08\x00\x00WAVEfmt ", "WAV audio"),
        (b"ID3\x04\x00\x00\x00\x00\x00\x00", "MP3 audio"),
        (b"\xff\xfb\x90\x64", "MP3 audio"),
        (b"fLaC\x00\x00\x00\x22", "FLAC audio"),
        (b"\x89PNG\r\n\x1a\n", "PNG image"),
        (b"\xff\xd8\xff\xe0", "JPEG image"),
        (b"PK\x03\x04", "zip archive"),
        (b"\x1f\x8b\x08", "gzip data"),
        (b"PAR1", "Parquet"),
        (b"\x80\x04\x95\x10", "pickle"),
        (b"\x00\x00\x00\x20ftypisom", "MP4 video"),
    ],
)
@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt"])
def test_something_else_under_the_name_of_text(tmp_path, head, what, suffix):
    (tmp_path / f"a.{suffix}").write_bytes(head + b"\x00" * 50)
    with pytest.raises(DataError, match=f"expected here, but the content is .*{what}"):
        list(StreamingDataLoader(tmp_path / f"a.{suffix}"))


def test_text_has_no_target_and_no_blank_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\n  \n two \r\nthree")
    records = list(StreamingDataLoader(tmp_path / "a.txt"))
    assert [(r.input, r.target, r.index) for r in records] == [("one", "", 0), (" two ", "", 1), ("three", "", 2)]
