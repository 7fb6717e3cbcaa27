"""Nothing that the loader is given is ever unpickled."""

from __future__ import annotations

import base64
import gzip
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from nexus_core.data import StreamingDataLoader
from nexus_core.errors import DataError


@pytest.fixture
def payload(tmp_path):
    """A pickle that, when read, writes a file; the test fails when that file exists."""
    mark = tmp_path / "owned"
    code = f"cposix\nsystem\n(S'touch {mark}'\ntR."
    yield b"\x80\x02" + code.encode()
    assert not mark.exists()


def test_the_payload_would_work(tmp_path):
    """The control: read by the wrong means, such bytes do run."""
    import subprocess
    import sys

    mark = tmp_path / "owned"
    data = b"\x80\x02" + f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode()
    code = f"import pickle, base64; pickle.loads(base64.b64decode({base64.b64encode(data)!r}))"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert mark.exists()


@pytest.mark.parametrize("suffix", ["pkl", "pickle", "pt", "pth", "bin", "ckpt", "joblib", "npy", "npz", "PKL", "dill"])
def test_pickles_are_refused_by_name(tmp_path, payload, suffix):
    path = tmp_path / f"data.{suffix}"
    path.write_bytes(payload)
    with pytest.raises(DataError, match=rf"data\.{suffix}: refused") as caught:
        StreamingDataLoader(path)
    assert "parquet" in caught.value.hint
    (tmp_path / "good.jsonl").write_text('{"input": "a", "target": "b"}\n')
    loader = StreamingDataLoader(tmp_path)
    assert len(list(loader)) == 1
    assert loader.skipped == {f"pickle refused (.{suffix.lower()})": 1}


@pytest.mark.parametrize(
    "name",
    [
        "a.jsonl",
        "a.json",
        "a.csv",
        "a.tsv",
        "a.txt",
        "a.parquet",
        "a.arrow",
        "a.wav",
        "a.png",
        "a.zip",
        "a.tar",
        "a.tgz",
    ],
)
def test_a_pickle_under_another_name(tmp_path, payload, name):
    (tmp_path / name).write_bytes(payload)
    with pytest.raises(DataError, match=name):
        list(StreamingDataLoader(tmp_path / name))


def test_pickles_in_archives(tmp_path, payload):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("x.pkl", payload)
        archive.writestr("y.jsonl", payload)
    with pytest.raises(DataError, match=r"a\.zip!y\.jsonl.*a Python pickle"):
        list(StreamingDataLoader(tmp_path / "a.zip"))
    (tmp_path / "x.pkl.gz").write_bytes(gzip.compress(payload))
    with pytest.raises(DataError, match="refused"):
        list(StreamingDataLoader(tmp_path / "x.pkl.gz"))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_the_pickled_extension_type_of_arrow(tmp_path, payload, kind, nested):
    """A column type that old readers unpickle when they see it (CVE-2023-47248)."""
    metadata = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": payload}
    field = pa.field("input", pa.string(), metadata=metadata)
    column = pa.array(["x"])
    if nested:
        column = pa.StructArray.from_arrays([column], fields=[field])
        field = pa.field("input", pa.struct([field]))
    table = pa.Table.from_arrays([column, pa.array(["y"])], schema=pa.schema([field, pa.field("target", pa.string())]))
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match=r"arrow\.py_extension_type, a pickle"):
        list(StreamingDataLoader(path))


def test_the_loader_imports_no_pickle_reader():
    from pathlib import Path

    import nexus_core.data

    sources = Path(nexus_core.data.__file__).parent.rglob("*.py")
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    for banned in ("import pickle", "torch.load", "allow_pickle", "read_pickle", "extractall", ".extract("):
        assert banned not in text
