"""Hostile archives are refused before one record comes out of them, in bounded time and memory, and leave no file."""

from __future__ import annotations

import gzip
import io
import json
import stat
import struct
import tarfile
import time
import tracemalloc
import zipfile

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError

GOOD = b'{"input": "a", "target": "b"}\n'
ESCAPES = [
    "../evil.jsonl",
    "a/../../evil.jsonl",
    "/etc/evil.jsonl",
    "..\\evil.jsonl",
    "C:\\evil.jsonl",
    "\\\\host\\evil.jsonl",
]


def refused(path, match, **options):
    """`path` yields nothing, leaves nothing behind, and the error says what to do."""
    before = sorted(path.parent.parent.rglob("*"))
    got = []
    with pytest.raises(DataError, match=match) as caught:
        got.extend(StreamingDataLoader(path, options=LoaderOptions(**options)))
    assert got == []
    assert caught.value.hint
    assert sorted(path.parent.parent.rglob("*")) == before


def tar_with(path, *infos, mode="w"):
    with tarfile.open(path, mode) as archive:
        good = tarfile.TarInfo("good.jsonl")
        good.size = len(GOOD)
        archive.addfile(good, io.BytesIO(GOOD))
        for info, data in infos:
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.mark.parametrize("name", ESCAPES)
def test_zip_members_that_leave_the_archive(tmp_path, name):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.jsonl", GOOD)
        archive.writestr(name, GOOD)
    refused(path, "has a path that leaves the archive")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("name", ESCAPES)
def test_tar_members_that_leave_the_archive(tmp_path, name, mode):
    path = tar_with(tmp_path / ("a.tar" if mode == "w" else "a.tgz"), (tarfile.TarInfo(name), GOOD), mode=mode)
    refused(path, "has a path that leaves the archive")


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_tars(tmp_path, kind):
    info = tarfile.TarInfo("link.jsonl")
    info.type, info.linkname = kind, "/etc/passwd"
    refused(tar_with(tmp_path / "a.tar", (info, b"")), "a link, a device or a sparse file: refused")


def test_links_in_zips(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.jsonl", GOOD)
        info = zipfile.ZipInfo("link.jsonl")
        info.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(info, "/etc/passwd")
    refused(path, "is a symbolic link: refused")


@pytest.mark.parametrize("inner", ["b.zip", "deep/b.tar", "b.jsonl.gz", "b.tgz", "b.7z", "B.ZIP"])
@pytest.mark.parametrize("outer", ["zip", "tar"])
def test_archives_in_archives(tmp_path, inner, outer):
    path = tmp_path / f"a.{outer}"
    if outer == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("good.jsonl", GOOD)
            archive.writestr(inner, b"PK")
    else:
        tar_with(path, (tarfile.TarInfo(inner), b"PK"))
    refused(path, "an archive inside an archive")


def test_a_zip_bomb_is_refused_by_its_ratio(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("good.jsonl", GOOD)
        with archive.open("bomb.jsonl", "w") as member:
            for _ in range(40):
                member.write(b"\n" * (1 << 20))
    assert path.stat().st_size < 50_000
    refused(path, "expands more than 200 times")


def test_a_zip_bomb_that_lies_about_its_size(tmp_path):
    path = tmp_path / "bomb.zip"
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive,
        archive.open("b.txt", "w") as member,
    ):
        for _ in range(40):
            member.write(b"\n" * (1 << 20))
    data = path.read_bytes()
    real, claimed = struct.pack("<I", 40 << 20), struct.pack("<I", 1000)
    assert data.count(real) >= 1
    path.write_bytes(data.replace(real, claimed))
    refused(path, "damaged or truncated|no records|Bad CRC")  # never more than the claimed size is given


def test_many_small_bombs_in_one_zip(tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for n in range(10):
            archive.writestr(f"{n}.txt", b"\n" * (4 << 20))
    refused(path, "expands more than 200 times")


@pytest.mark.parametrize("name", ["bomb.jsonl.gz", "bomb.tgz"])
def test_gzip_bombs(tmp_path, name):
    path = tmp_path / name
    if name.endswith("tgz"):
        info = tarfile.TarInfo("b.txt")
        info.size = 40 << 20
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(info, io.BytesIO((b" " * 1023 + b"\n") * (40 << 10)))
    else:
        with gzip.open(path, "wb") as stream:
            for _ in range(40):
                stream.write((b" " * 1023 + b"\n") * 1024)
    tracemalloc.start()
    refused(path, "expands more than 200 times")
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.zip", "a.tgz", "a.tar", "a.jsonl.gz"])
def test_the_absolute_limit(tmp_path, name):
    path = tmp_path / name
    rows = b"".join(json.dumps({"input": str(i), "target": "x"}).encode() + b"\n" for i in range(5000))
    if name == "a.zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.jsonl", rows)
    elif name == "a.jsonl.gz":
        path.write_bytes(gzip.compress(rows))
    else:
        info = tarfile.TarInfo("a.jsonl")
        info.size = len(rows)
        with tarfile.open(path, "w:gz" if name == "a.tgz" else "w") as archive:
            archive.addfile(info, io.BytesIO(rows))
    with pytest.raises(DataError, match="expands to more than 20000 bytes"):
        list(StreamingDataLoader(path, options=LoaderOptions(max_expanded_bytes=20_000)))
    assert len(list(StreamingDataLoader(path))) == 5000


def test_well_compressed_honest_data_is_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(GOOD * 100_000, 9))
    assert path.stat().st_size * 100 < len(GOOD) * 100_000
    assert sum(1 for _ in StreamingDataLoader(path)) == 100_000


def test_a_huge_table_of_contents(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for n in range(200):
            archive.writestr(f"{n:0200}.jsonl", b"")
    refused(path, "its table of contents has", max_line_bytes=10_000)


def test_a_tar_header_that_asks_for_much_memory(tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, 1 << 40
    path.write_bytes(info.tobuf(tarfile.USTAR_FORMAT | 0) if info.size < 8**11 else info.tobuf(tarfile.GNU_FORMAT))
    tracemalloc.start()
    refused(path, "bytes are needed at once|expands to more")
    assert tracemalloc.get_traced_memory()[1] < 24 << 20
    tracemalloc.stop()


def test_encrypted_members(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", GOOD)
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(signature) + at] |= 1
    path.write_bytes(bytes(data))
    refused(path, "is encrypted")


@pytest.mark.parametrize("outer", ["zip", "tar"])
def test_two_members_of_one_name(tmp_path, outer):
    path = tmp_path / f"a.{outer}"
    if outer == "zip":
        with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.jsonl", GOOD)
            archive.writestr("a.jsonl", GOOD)
    else:
        tar_with(path, (tarfile.TarInfo("./good.jsonl"), GOOD))
    refused(path, "two members are called")


def test_random_bytes_and_mutated_archives_end_in_a_clear_error(tmp_path):
    """Whatever the bytes, the outcome is records or a DataError, and soon."""
    import random

    draw = random.Random(5)
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.jsonl", GOOD * 50)
        archive.writestr("b.csv", "input,target\na,b\n")
    tar_with(tmp_path / "a.tar", (tarfile.TarInfo("b.jsonl"), GOOD * 50))
    tar_with(tmp_path / "a.tgz", (tarfile.TarInfo("b.jsonl"), GOOD * 50), mode="w:gz")
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(GOOD * 50))
    start = time.monotonic()
    refusals = 0
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(draw.randint(1, 4)):
                data[draw.randrange(len(data))] = draw.randrange(256)
            path.write_bytes(bytes(data))
            try:
                list(StreamingDataLoader(path))
            except DataError as error:
                refusals += 1
                assert error.hint
    assert refusals > 60
    assert time.monotonic() - start < 30
