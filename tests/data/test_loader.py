"""The stream as a whole: order, position, batches, memory, what is imported."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import itertools
import json
import subprocess
import sys
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nexus_core.data import LoaderOptions, Position, Record, StreamingDataLoader
from nexus_core.errors import DataError

SMALL_BLOCKS = LoaderOptions(shuffle_records=700)


@pytest.fixture
def mixed(tmp_path, write_jsonl, questions):
    """One folder with every tabular format; 9,002 records."""
    write_jsonl("data/a.jsonl", questions(3000))
    rows = questions(1500, 3000)
    (tmp_path / "data/b.json").write_text(json.dumps({"version": 1, "data": rows}, indent=1))
    with gzip.open(tmp_path / "data/sub.jsonl.gz", "wt") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in questions(1500, 4500))
    with (tmp_path / "data/d.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, ["question", "answer"])
        writer.writeheader()
        writer.writerows(questions(1000, 6000))
    pq.write_table(pa.Table.from_pylist(questions(1500, 7000)), tmp_path / "data/e.parquet", row_group_size=400)
    with zipfile.ZipFile(tmp_path / "data/f.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for part in range(5):
            lines = [json.dumps(row) for row in questions(100, 8500 + 100 * part)]
            archive.writestr(f"part{part}.jsonl", "\n".join(lines))
    (tmp_path / "data/g.txt").write_text("hello\n\nworld\n")
    return tmp_path / "data"


def test_every_record_comes_once_in_file_order(mixed):
    records = list(StreamingDataLoader(mixed))
    assert len(records) == 9002
    assert len({(r.source, r.index) for r in records}) == 9002
    from_a = [r for r in records if r.source.endswith("a.jsonl")]
    assert [r.target for r in from_a] == [f"a{i}" for i in range(3000)]
    assert [r.index for r in from_a] == list(range(3000))
    assert {r.target for r in records if r.target} == {f"a{i}" for i in range(9000)}


@pytest.mark.parametrize("seed", [None, 7])
def test_resuming_anywhere_yields_exactly_the_rest(mixed, seed):
    loader = StreamingDataLoader(mixed, seed=seed, options=SMALL_BLOCKS)
    everything = list(loader)
    for taken in (0, 1, 700, 3001, 4777, 6100, 8123, 8950, 9002):
        stream = iter(loader)
        for _ in range(taken):
            next(stream)
        text = json.dumps(dataclasses.asdict(loader.position))
        assert len(text) < 500
        again = StreamingDataLoader(mixed, seed=seed, position=json.loads(text), options=SMALL_BLOCKS)
        assert list(again) == everything[taken:]


def test_resuming_where_rows_are_left_out(write_jsonl):
    """Runs of marked rows longer than a window: whole chunks give nothing, and a block still has the same bounds."""
    rows = [{"input": f"{i} " + "x" * 80, "target": "", "uncensored": i // 1500 % 2 == 0} for i in range(12_000)]
    path = write_jsonl("a.jsonl", rows)
    for seed in (None, 3):
        options = LoaderOptions(shuffle_records=100_000, shuffle_bytes=300_000)
        loader = StreamingDataLoader(path, seed=seed, options=options)
        everything = list(loader)
        assert len(everything) == 6000
        for taken in (1, 1500, 1501, 2999, 3000, 4000, 5999):
            stream = iter(loader)
            for _ in range(taken):
                next(stream)
            again = StreamingDataLoader(path, seed=seed, position=loader.position, options=options)
            assert list(again) == everything[taken:]


def test_the_seed_alone_decides_the_order(mixed):
    in_file_order = list(StreamingDataLoader(mixed))
    first = list(StreamingDataLoader(mixed, seed=1))
    assert first == list(StreamingDataLoader(mixed, seed=1))
    second = list(StreamingDataLoader(mixed, seed=2))
    assert first != second != in_file_order
    key = lambda r: (r.source, r.index)  # noqa: E731
    assert sorted(first, key=key) == sorted(second, key=key) == sorted(in_file_order, key=key)


def test_a_block_mixes_small_files(write_jsonl, questions, tmp_path):
    for n in range(50):
        write_jsonl(f"small/{n:02}.jsonl", questions(20, 20 * n))
    sources = [r.source for r in StreamingDataLoader(tmp_path / "small", seed=3)]
    changes = sum(a != b for a, b in itertools.pairwise(sources))
    assert changes > 900  # unmixed files would change 49 times


def test_resume_enters_a_plain_file_and_does_not_read_it_again(write_jsonl, questions):
    path = write_jsonl("big.jsonl", questions(20_000))
    loader = StreamingDataLoader(path)
    stream = iter(loader)
    for _ in range(15_000):
        next(stream)
    position = loader.position
    assert position.offset > path.stat().st_size // 2
    damaged = b"\xff" * 1000 + path.read_bytes()[1000:]  # what lies before the position is not looked at
    path.write_bytes(damaged)
    assert len(list(StreamingDataLoader(path, position=position))) == 5_000


def test_iterating_again_starts_again(write_jsonl, questions):
    loader = StreamingDataLoader(write_jsonl("a.jsonl", questions(10)))
    next(iter(loader))
    assert len(list(loader)) == 10
    assert len(list(loader)) == 10


def test_batches(write_jsonl, questions):
    path = write_jsonl("a.jsonl", questions(10))
    loader = StreamingDataLoader(path, batch_size=4)
    assert [len(batch) for batch in loader.batches()] == [4, 4, 2]
    batches = loader.batches()
    next(batches)
    rest = StreamingDataLoader(path, batch_size=4, position=loader.position)
    assert [r.index for batch in rest.batches() for r in batch] == [4, 5, 6, 7, 8, 9]


def test_a_record_is_immutable(write_jsonl, questions):
    record = next(iter(StreamingDataLoader(write_jsonl("a.jsonl", questions(1)))))
    assert isinstance(record, Record)
    with pytest.raises(AttributeError):
        record.input = "other"


def test_a_position_of_other_data_seed_or_content_is_refused(write_jsonl, questions):
    path = write_jsonl("a.jsonl", questions(10))
    other = write_jsonl("b.jsonl", questions(10))
    loader = StreamingDataLoader(path)
    next(iter(loader))
    with pytest.raises(DataError, match="another order"):
        StreamingDataLoader(path, seed=1, position=loader.position)
    with pytest.raises(DataError, match="another list of files"):
        StreamingDataLoader(other, position=loader.position)
    write_jsonl("a.jsonl", questions(11))
    with pytest.raises(DataError, match="changed since"):
        list(StreamingDataLoader(path, position=loader.position))


@pytest.mark.parametrize("wrong", [{}, {"file": "0"}, {**dataclasses.asdict(Position()), "extra": 1}])
def test_a_position_must_be_one(write_jsonl, questions, wrong):
    with pytest.raises(DataError, match="not a position") as caught:
        StreamingDataLoader(write_jsonl("a.jsonl", questions(1)), position=wrong)
    assert "loader.position" in caught.value.hint


@pytest.mark.parametrize(
    "wrong",
    [
        {"bad_rows": "ignore"},
        {"modality": "smell"},
        {"keys": "question"},
        {"keys": ("a",)},
        {"reservoir": -1},
        {"max_line_bytes": 0},
        {"shuffle_records": 0},
    ],
)
def test_wrong_options_are_refused(wrong):
    with pytest.raises(DataError) as caught:
        LoaderOptions(**wrong)
    assert caught.value.hint


def test_wrong_batch_size(write_jsonl, questions):
    with pytest.raises(DataError, match="batch_size=0"):
        StreamingDataLoader(write_jsonl("a.jsonl", questions(1)), batch_size=0)


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "a.txt"])
def test_an_empty_file_is_an_error(tmp_path, name):
    (tmp_path / name).touch()
    with pytest.raises(DataError, match="no records") as caught:
        list(StreamingDataLoader(tmp_path / name))
    assert caught.value.hint


def test_missing_and_unknown_sources(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        StreamingDataLoader(tmp_path / "absent.jsonl")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data files"):
        StreamingDataLoader(tmp_path / "empty")
    (tmp_path / "a.xlsx").touch()
    with pytest.raises(DataError, match=r"files of type \.xlsx are not read") as caught:
        StreamingDataLoader(tmp_path / "a.xlsx")
    assert ".jsonl" in caught.value.hint


def test_the_path_is_used_verbatim(write_jsonl, questions):
    path = write_jsonl("odd name #1 %20 [x]/träin.jsonl", questions(2))
    assert [r.source for r in StreamingDataLoader(str(path))] == [path.as_posix()] * 2


def test_an_abandoned_stream_closes_its_file(write_jsonl, questions):
    import psutil

    path = write_jsonl("a.jsonl", questions(50_000))
    stream = iter(StreamingDataLoader(path))
    next(stream)
    assert str(path) in {f.path for f in psutil.Process().open_files()}
    del stream
    assert str(path) not in {f.path for f in psutil.Process().open_files()}


def test_importing_loads_nothing_heavy():
    heavy = ["torch", "pyarrow", "soundfile", "PIL", "numpy", "orjson", "fsspec", "av", "pandas", "transformers"]
    code = f"import sys, nexus_core.data; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_library_says_what_to_install(write_jsonl, questions, monkeypatch):
    monkeypatch.setitem(sys.modules, "orjson", None)
    with pytest.raises(DataError, match="orjson is needed to read JSON") as caught:
        list(StreamingDataLoader(write_jsonl("a.jsonl", questions(1))))
    assert caught.value.hint == 'pip install "nexus-core[data]"'


@pytest.mark.parametrize("seed", [None, 3])
def test_memory_does_not_grow_with_the_file(write_jsonl, seed):
    """Python's own allocations, traced, while a file four times as large is read: the peak stays the same."""
    import tracemalloc

    def peak(n: int) -> int:
        path = write_jsonl("a.jsonl", ({"question": f"{i}" * 40, "answer": "x" * 100} for i in range(n)))
        loader = StreamingDataLoader(path, seed=seed, options=LoaderOptions(shuffle_records=500))
        tracemalloc.start()
        count = sum(1 for _ in loader)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == n
        return found

    peak(10)  # imports
    small, large = peak(3_000), peak(12_000)
    assert large < 1.25 * small + 200_000
