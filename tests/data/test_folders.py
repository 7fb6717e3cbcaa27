"""What is read in a folder, what is left out, and that it is counted."""

from __future__ import annotations

import json
import os

import pytest

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError

ROW = '{"input": "a", "target": "b"}\n'


def touch(root, *names, text=ROW):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def sources(root, **options):
    loader = StreamingDataLoader(root, **options)
    return [os.path.relpath(r.source, root) for r in loader], loader.skipped


def test_recursive_and_sorted(tmp_path):
    touch(tmp_path, "z.jsonl", "b/c/d.jsonl", "b/a.jsonl", "a/x.jsonl", "B/x.jsonl", "b/TRAIN.JSONL")
    assert sources(tmp_path)[0] == ["z.jsonl", "B/x.jsonl", "a/x.jsonl", "b/TRAIN.JSONL", "b/a.jsonl", "b/c/d.jsonl"]


def test_hub_leftovers_are_skipped_and_counted(tmp_path):
    touch(
        tmp_path,
        "train.jsonl",
        ".gitattributes",
        ".cache/huggingface/download/train.jsonl",
        ".git/config.json",
        "train.jsonl.metadata",
        "x.incomplete",
        ".DS_Store",
        "README.md",
        "loader.py",
        "dataset_infos.json",
        "data.pkl",
        "weights.bin",
        "events.out.tfevents.1699.host.0",
    )
    assert sources(tmp_path) == (
        ["train.jsonl"],
        {
            "hub leftover or hidden file": 4,
            "hub leftover or hidden folder": 2,
            "not a data file (.md)": 1,
            "not a data file (.py)": 1,
            "dataset metadata": 1,
            "pickle refused (.pkl)": 1,
            "pickle refused (.bin)": 1,
            "TensorBoard events": 1,
        },
    )


@pytest.mark.parametrize(
    "files",
    [
        {"config.json": json.dumps({"model_type": "llama"}), "tokenizer.json": "{}"},
        {"model.safetensors": "", "notes.txt": "x"},
        {"pytorch_model-00001-of-00002.bin": ""},
        {"model_index.json": "{}", "unet/config.json": "{}"},
        {"m.gguf": ""},
    ],
)
def test_model_folders_inside_data_folders(tmp_path, files):
    touch(tmp_path, "train.jsonl")
    for name, text in files.items():
        touch(tmp_path / "WizardLM-7B", name, text=text)
    assert sources(tmp_path) == (["train.jsonl"], {"model folder": 1})
    with pytest.raises(DataError, match="this is a model folder"):
        StreamingDataLoader(tmp_path / "WizardLM-7B")


def test_a_config_that_is_no_models_does_not_hide_the_data(tmp_path):
    touch(tmp_path / "x", "config.json")
    assert sources(tmp_path)[0] == ["x/config.json"]


def test_links(tmp_path):
    data = tmp_path / "data"
    touch(data, "a.jsonl")
    touch(tmp_path, "secret.txt", text="secret")
    (data / "inside.jsonl").symlink_to(data / "a.jsonl")
    (data / "outside.txt").symlink_to(tmp_path / "secret.txt")
    (data / "loop").symlink_to(data)
    (data / "up").symlink_to(tmp_path)
    (data / "self.jsonl").symlink_to(data / "self.jsonl")
    (data / "gone.jsonl").symlink_to(data / "nothing.jsonl")
    os.mkfifo(data / "pipe.jsonl")
    assert sources(data) == (
        ["a.jsonl", "inside.jsonl"],
        {"link out of the dataset": 1, "link to a folder": 2, "broken link": 2, "not a regular file": 1},
    )


def test_a_caption_that_links_out_of_the_dataset_is_not_read(tmp_path):
    from PIL import Image

    data = tmp_path / "data"
    data.mkdir()
    touch(tmp_path, "secret.txt", text="secret")
    Image.new("RGB", (2, 2)).save(data / "a.png")
    (data / "a.txt").symlink_to(tmp_path / "secret.txt")
    for source in (data, data / "a.png"):
        assert [r.target for r in StreamingDataLoader(source)] == [""]


def test_a_hub_snapshot_links_to_its_blobs(tmp_path):
    touch(tmp_path, "datasets--x/blobs/0123")
    snapshot = tmp_path / "datasets--x/snapshots/abc"
    (snapshot / "data").mkdir(parents=True)
    (snapshot / "data/train.jsonl").symlink_to("../../../blobs/0123")
    assert sources(snapshot) == (["data/train.jsonl"], {})


def test_deep_folders(tmp_path):
    deep = tmp_path
    for _ in range(300):
        deep /= "d"
    touch(deep, "a.jsonl")
    assert len(sources(tmp_path)[0]) == 1


def test_many_files_are_found_fast(tmp_path):
    import time

    for i in range(20):
        (tmp_path / f"{i}").mkdir()
        for j in range(50):
            (tmp_path / f"{i}/{j}.jsonl").touch()
    start = time.process_time()
    loader = StreamingDataLoader(tmp_path, options=LoaderOptions(bad_rows="skip"))
    assert time.process_time() - start < 1.0  # 1,000 files; about 0.02 s
    assert loader.skipped == {}


def test_nothing_but_leftovers_says_so(tmp_path):
    touch(tmp_path, "a.md", "b.pkl")
    with pytest.raises(DataError, match=r"no data files \(left out: 1 not a data file \(\.md\), 1 pickle refused"):
        StreamingDataLoader(tmp_path)
