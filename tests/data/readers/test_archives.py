"""Gzip, zip and tar: streamed, bounded, never unpacked."""

from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError


def lines(n, first=0):
    return "".join(json.dumps({"input": f"{i}", "target": "t"}) + "\n" for i in range(first, first + n)).encode()


def members():
    sink = io.BytesIO()
    pq.write_table(pa.table({"input": ["p"], "target": ["q"]}), sink)
    return {
        "data/b.jsonl": lines(2000),
        "data/a.csv": b"input,target\nc,d\n",
        "data/c.parquet": sink.getvalue(),
        "data/notes.md": b"# notes",
        "data/weights.bin": b"\x80\x04",
        ".gitattributes": b"",
        "model/config.json": b'{"model_type": "llama"}',
        "model/tokenizer.json": b"{}",
        "uncensored/x.jsonl": lines(3),
        "__MACOSX/a.jsonl": b"\x00\x05",
    }


def pack(path, files):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return path
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


ARCHIVES = ["a.zip", "a.tar", "a.tar.gz", "a.tgz"]


@pytest.mark.parametrize("name", ARCHIVES)
def test_members_are_read_in_place_and_the_rest_is_counted(tmp_path, name):
    path = pack(tmp_path / name, members())
    loader = StreamingDataLoader(path)
    records = list(loader)
    assert len(records) == 2002
    assert [(r.source, r.index) for r in records[:2]] == [(f"{path}!data/b.jsonl", 0), (f"{path}!data/b.jsonl", 1)]
    assert [r[:2] for r in records[-2:]] == [("c", "d"), ("p", "q")]
    assert loader.skipped == {
        "not a data file (.md)": 1,
        "pickle refused (.bin)": 1,
        "hub leftover or hidden file": 1,
        "hub leftover or hidden folder": 1,
        "model folder": 1,
        "uncensored": 1,
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == [name]  # nothing was unpacked


@pytest.mark.parametrize("name", ARCHIVES)
def test_resuming_inside_an_archive(tmp_path, name):
    path = pack(tmp_path / name, members())
    loader = StreamingDataLoader(path)
    everything = list(loader)
    for taken in (0, 1, 1999, 2000, 2001, 2002):
        stream = iter(loader)
        for _ in range(taken):
            next(stream)
        assert list(StreamingDataLoader(path, position=loader.position)) == everything[taken:]


@pytest.mark.parametrize("name", ARCHIVES)
@pytest.mark.parametrize("part", [0.3, 0.6, 0.85])
def test_truncated_archives(tmp_path, name, part):
    rows = (json.dumps({"input": os.urandom(20).hex(), "target": "t"}) + "\n" for _ in range(1500))
    path = pack(tmp_path / name, {"a.jsonl": "".join(rows).encode(), "b.jsonl": lines(2000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * part)])
    with pytest.raises(DataError, match=r"not a complete zip|damaged or truncated") as caught:
        list(StreamingDataLoader(path))
    assert caught.value.hint


def test_a_tar_cut_at_every_block_is_noticed(tmp_path):
    path = pack(tmp_path / "a.tar", {"a.jsonl": lines(30), "b.jsonl": lines(30)})
    whole = path.read_bytes()
    content = len(whole.rstrip(b"\0")) // 512 * 512
    for cut in range(512, content, 512):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match="damaged or truncated"):
            list(StreamingDataLoader(path))


@pytest.mark.parametrize("cut", [1, 8, 9, 500, 2000])
def test_truncated_gzip(tmp_path, cut):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b"".join(lines(1, i) for i in range(3000)))[:-cut])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz: damaged or truncated") as caught:
        list(StreamingDataLoader(path))
    assert "again" in caught.value.hint


def test_damaged_bytes_inside(tmp_path):
    for name, at in (("a.zip", 0.4), ("a.tar.gz", 0.5), ("a.jsonl.gz", 0.5)):
        path = tmp_path / name
        if name == "a.jsonl.gz":
            path.write_bytes(gzip.compress(lines(3000)))
        else:
            pack(path, {"a.jsonl": lines(3000)})
        data = bytearray(path.read_bytes())
        data[int(len(data) * at)] ^= 0xFF
        path.write_bytes(bytes(data))
        with pytest.raises(DataError):
            list(StreamingDataLoader(path))


@pytest.mark.parametrize("inner", ["jsonl", "json", "csv", "tsv", "txt"])
def test_gzip_around_each_text_format(tmp_path, inner):
    text = {"csv": "input,target\na,b\n", "tsv": "input\ttarget\na\tb\n", "txt": "a\n"}.get(
        inner, '{"input": "a", "target": "b"}'
    )
    path = tmp_path / f"x.{inner}.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert [r.input for r in StreamingDataLoader(path)] == ["a"]


def test_gzip_members_one_after_another(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(lines(5)) + gzip.compress(lines(5, 5)))
    assert len(list(StreamingDataLoader(path))) == 10


def test_parquet_in_gzip_is_read_from_memory(tmp_path):
    path = tmp_path / "a.parquet.gz"
    path.write_bytes(gzip.compress(members()["data/c.parquet"]))
    assert [r[:2] for r in StreamingDataLoader(path)] == [("p", "q")]
    with pytest.raises(DataError, match="needs random access") as caught:
        list(StreamingDataLoader(path, options=LoaderOptions(max_line_bytes=100)))
    assert "unpack" in caught.value.hint


def test_gzip_without_an_inner_name(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(lines(1)))
    with pytest.raises(DataError, match="cannot tell what is inside"):
        list(StreamingDataLoader(tmp_path / "a.gz"))


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tgz"])
def test_an_archive_without_data(tmp_path, name):
    path = pack(tmp_path / name, {"readme.md": b"#"})
    with pytest.raises(DataError, match=r"no records \(left out: 1 not a data file \(\.md\)\)"):
        list(StreamingDataLoader(path))


@pytest.mark.parametrize("part", ["a.z01", "a.z17", "a.zip.001"])
def test_split_zips_are_named_and_the_error_tells_how_to_join_them(tmp_path, part):
    (tmp_path / part).write_bytes(b"PK\x03\x04")
    for source in (tmp_path / part, tmp_path):
        with pytest.raises(DataError, match=rf"{part}: one part of a split archive") as caught:
            StreamingDataLoader(source)
        assert ("zip -s 0" if part.startswith("a.z0") or part == "a.z17" else "cat") in caught.value.hint


def test_a_member_that_ends_too_early_says_so(tmp_path):
    """As `zip -s 0` leaves it behind when the parts were stored and not compressed."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", lines(4000))
    data = path.read_bytes()
    cut = data.index(lines(1, 2000))
    directory = data.index(b"PK\x01\x02")
    path.write_bytes(data[:cut] + data[directory:])
    with pytest.raises(DataError, match=r"not a complete zip|damaged|truncated"):
        list(StreamingDataLoader(path))


def test_the_last_part_of_a_split_zip(tmp_path):
    path = pack(tmp_path / "a.zip", {"a.jsonl": lines(3)})
    data = bytearray(path.read_bytes())
    end = data.rindex(b"PK\x05\x06")
    data[end + 4 : end + 8] = b"\x01\x00\x01\x00"  # this disk is number 1, and so is the directory's
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match=r"a\.zip: the last of 2 parts of a split archive") as caught:
        list(StreamingDataLoader(path))
    assert "zip -s 0" in caught.value.hint
