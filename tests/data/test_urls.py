"""What lies behind URLs."""

from __future__ import annotations

import fsspec
import pytest

from nexus_core.data import StreamingDataLoader
from nexus_core.errors import DataError

ROW = b'{"input": "a", "target": "b"}\n'


@pytest.fixture
def memory():
    filesystem = fsspec.filesystem("memory")

    def write(name, data=ROW):
        filesystem.pipe_file(f"/set/{name}", data)

    yield write
    filesystem.rm("/set", recursive=True)


def test_a_file_url(tmp_path):
    path = tmp_path / "a b.jsonl"
    path.write_bytes(ROW)
    assert [r[:2] for r in StreamingDataLoader(path.as_uri())] == [("a", "b")]


def test_a_remote_file(memory):
    memory("a.jsonl", ROW * 3000)
    loader = StreamingDataLoader("memory://set/a.jsonl")
    records = list(loader)
    assert len(records) == 3000
    assert records[0].source == "memory://set/a.jsonl"
    stream = iter(loader)
    for _ in range(2500):
        next(stream)
    assert loader.position.offset > 0
    assert len(list(StreamingDataLoader("memory://set/a.jsonl", position=loader.position))) == 500


def test_a_remote_folder_follows_the_same_rules(memory):
    memory("b/x.jsonl")
    memory("a.jsonl")
    memory(".gitattributes", b"")
    memory(".cache/deep/er/x.jsonl")
    memory("model/config.json", b'{"model_type": "llama"}')
    memory("model/sub/vocab.json", b"{}")
    memory("uncensored/one/x.jsonl")
    memory("uncensored/two/x.jsonl")
    memory("card/README.md", b"---\nuncensored: true\n---\n")
    memory("card/sub/x.jsonl")
    loader = StreamingDataLoader("memory://set")
    assert [r.source for r in loader] == ["memory://set/a.jsonl", "memory://set/b/x.jsonl"]
    assert loader.skipped == {
        "hub leftover or hidden file": 1,
        "hub leftover or hidden folder": 1,
        "model folder": 1,
        "uncensored": 2,
    }


def test_parquet_zip_images_and_captions_behind_a_url(memory, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    pq.write_table(pa.table({"input": ["p"], "target": ["q"]}), tmp_path / "a.parquet")
    Image.new("RGB", (3, 2)).save(tmp_path / "b.png")
    memory("a.parquet", (tmp_path / "a.parquet").read_bytes())
    memory("b.png", (tmp_path / "b.png").read_bytes())
    memory("b.txt", b"black")
    parquet, image = StreamingDataLoader("memory://set")
    assert parquet[:2] == ("p", "q")
    assert image.target == "black"
    assert image.fields["image"].load().size == (3, 2)


def test_common_voice_behind_a_url(memory, tmp_path):
    import numpy as np
    import soundfile as sf

    sf.write(tmp_path / "c.mp3", np.zeros(800, dtype="float32"), 8000)
    memory("clips/c.mp3", (tmp_path / "c.mp3").read_bytes())
    memory("train.tsv", b"client_id\tpath\tsentence\nid\tc.mp3\tHello.\n")
    (record,) = StreamingDataLoader("memory://set")
    assert record.target == "Hello."


def test_nothing_there(memory):
    memory("x.jsonl")
    with pytest.raises(DataError, match=r"memory://absent: no data files"):
        StreamingDataLoader("memory://absent")


def test_an_unknown_protocol():
    with pytest.raises(DataError, match="nowhere://x") as caught:
        StreamingDataLoader("nowhere://x/y.jsonl")
    assert "memory://" in caught.value.hint


def test_a_missing_library_for_a_protocol(monkeypatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match="hf:// needs another library") as caught:
        StreamingDataLoader("hf://datasets/x/y")
    assert caught.value.hint == "pip install huggingface_hub"


def test_a_hub_out_of_reach():
    with pytest.raises(DataError, match="hf://datasets/x/y: cannot be reached") as caught:
        StreamingDataLoader("hf://datasets/x/y")  # the tests run with HF_HUB_OFFLINE=1
    assert "fetch the data first" in caught.value.hint
