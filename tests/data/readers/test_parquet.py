"""Parquet and Arrow."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nexus_core.data import StreamingDataLoader
from nexus_core.errors import DataError

ROWS = [{"question": f"q{i}", "answer": f"a{i}", "n": i, "tags": ["x"] * (i % 3)} for i in range(2500)]


def write(path, kind):
    table = pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(table, path, row_group_size=1000)
        return
    with pa.OSFile(str(path), "wb") as sink:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with new(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=1500)


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_all_rows_in_order(tmp_path, kind):
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    write(path, kind)
    records = list(StreamingDataLoader(path))
    assert [dict(r.fields) for r in records] == ROWS
    assert [r.index for r in records] == list(range(2500))


def test_row_groups_of_huge_rows_come_in_small_batches(tmp_path):
    from nexus_core.data.blob import local_blob
    from nexus_core.data.readers.parquet import read_parquet
    from nexus_core.data.records import Context, LoaderOptions

    path = tmp_path / "a.parquet"
    pq.write_table(
        pa.table({"input": [chr(65 + i) * 1_000_000 for i in range(20)], "target": [""] * 20}),
        path,
        use_dictionary=False,
    )
    sizes = [len(chunk.rows) for chunk in read_parquet(local_blob(path), Context(LoaderOptions()))]
    assert sum(sizes) == 20
    assert max(sizes) <= 5


@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
@pytest.mark.parametrize("part", [0.3, 0.95])
def test_truncated_files(tmp_path, kind, part):
    path = tmp_path / ("a.parquet" if kind == "parquet" else "a.arrow")
    write(path, kind)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DataError, match=rf"{path.name}: not a complete") as caught:
        list(StreamingDataLoader(path))
    assert caught.value.hint


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_something_else_under_the_name(tmp_path, name):
    (tmp_path / name).write_text('{"input": "a", "target": "b"}\n' * 100)
    with pytest.raises(DataError, match="not a complete"):
        list(StreamingDataLoader(tmp_path / name))


def test_rows_without_the_keys(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet, row 0: .*keys found: text, label"):
        list(StreamingDataLoader(tmp_path / "a.parquet"))


def test_bytes_are_not_text(tmp_path):
    pq.write_table(pa.table({"input": [b"raw"], "target": ["x"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="input holds bytes, which is not text"):
        list(StreamingDataLoader(tmp_path / "a.parquet"))
