"""Uncensored data comes only with `allow_uncensored=True`: proved by the hash of every record, over every way in."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from nexus_core.data import LoaderOptions, StreamingDataLoader
from nexus_core.errors import DataError

CARD = "---\nlicense: mit\nuncensored: true\n---\n# A set\n"


def rows(prefix, n=40):
    return [{"input": f"{prefix} {i}", "target": f"answer {i}"} for i in range(n)]


def lines(items):
    return "".join(json.dumps(item) + "\n" for item in items)


def digest(record):
    return hashlib.sha256(json.dumps([record.input, record.target]).encode()).hexdigest()


@pytest.fixture
def forbidden(tmp_path):
    """A dataset with plain records, and uncensored ones by every road; the records' hashes."""
    root = tmp_path / "datasets"
    found: dict[str, list[dict[str, str]]] = {"safe": [], "uncensored": []}

    def write(name, group, prefix):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        items = rows(prefix)
        found[group] += items
        text = lines(items)
        if name.endswith(".gz"):
            path.write_bytes(gzip.compress(text.encode()))
        elif name.endswith(".parquet"):
            pq.write_table(pa.Table.from_pylist(items), path)
        else:
            path.write_text(text)

    write("general/a.jsonl", "safe", "safe a")
    write("general/b.parquet", "safe", "safe b")
    write("uncensored/toxic.jsonl", "uncensored", "u folder")
    write("uncensored/deep/er/x.parquet", "uncensored", "u deep")
    write("Uncensored/x.jsonl", "uncensored", "u case")
    write("general/uncensored.jsonl", "uncensored", "u file")
    write("general/uncensored.jsonl.gz", "uncensored", "u gz")
    write("general/wizard_vicuna_70k_uncensored/x.jsonl", "uncensored", "u word")
    write("carded/sub/x.jsonl", "uncensored", "u card")
    (root / "carded/README.md").write_text(CARD)
    (root / "general/link.jsonl").symlink_to(root / "uncensored/toxic.jsonl")
    flagged = [{**item, "uncensored": True} for item in rows("u row")]
    found["uncensored"] += rows("u row")
    mixed = [item for pair in zip(rows("safe row"), flagged, strict=True) for item in pair]
    found["safe"] += rows("safe row")
    (root / "general/mixed.jsonl").write_text(lines(mixed))
    for name in ("general/z.zip", "general/z.tar", "general/z.tgz"):
        members = {
            "ok/x.jsonl": rows(f"safe {name}"),
            "Uncensored/x.jsonl": rows(f"u {name}"),
            "carded/s/x.jsonl": rows(f"u c{name}"),
        }
        found["safe"] += members["ok/x.jsonl"]
        found["uncensored"] += members["Uncensored/x.jsonl"] + members["carded/s/x.jsonl"]
        _pack(root / name, {**{k: lines(v) for k, v in members.items()}, "carded/README.md": CARD})
    return root, {
        group: {hashlib.sha256(json.dumps([r["input"], r["target"]]).encode()).hexdigest() for r in items}
        for group, items in found.items()
    }


def _pack(path, members):
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, text in members.items():
                archive.writestr(name, text)
        return
    with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))


@pytest.mark.parametrize("seed", [None, 42])
def test_no_uncensored_record_appears_by_hash(forbidden, seed):
    root, known = forbidden
    assert len(known["uncensored"]) == 40 * 14
    assert not known["safe"] & known["uncensored"]
    loader = StreamingDataLoader(root, seed=seed)
    seen = {digest(record) for record in loader}
    assert seen == known["safe"]
    assert not seen & known["uncensored"]
    assert {digest(r) for r in loader.representative_samples} <= known["safe"]
    assert loader.skipped["uncensored record"] == 40
    in_folders = 7  # two folders, a folder by its word, one by its card, two files, one link
    assert loader.skipped["uncensored"] == in_folders + 3 * 2


def test_with_the_flag_they_all_come(forbidden):
    root, known = forbidden
    seen = {digest(record) for record in StreamingDataLoader(root, allow_uncensored=True)}
    assert seen == known["safe"] | known["uncensored"]


@pytest.mark.parametrize(
    "name",
    [
        "uncensored",
        "uncensored/toxic.jsonl",
        "uncensored/deep",
        "Uncensored/x.jsonl",
        "general/uncensored.jsonl",
        "general/wizard_vicuna_70k_uncensored",
        "general/wizard_vicuna_70k_uncensored/x.jsonl",
        "carded",
        "carded/sub",
        "carded/sub/x.jsonl",
        "general/link.jsonl",
        "general/../uncensored/toxic.jsonl",
    ],
)
def test_pointing_straight_at_it_is_refused(forbidden, name):
    root, _ = forbidden
    for source in (root / name, f"file://{root / name}"):
        with pytest.raises(DataError, match="uncensored data") as caught:
            StreamingDataLoader(source)
        assert "allow_uncensored=True" in caught.value.hint
    assert list(StreamingDataLoader(root / name, allow_uncensored=True))


def test_a_relative_path_from_inside(forbidden, monkeypatch):
    root, _ = forbidden
    monkeypatch.chdir(root / "uncensored")
    for source in (".", "toxic.jsonl"):
        with pytest.raises(DataError, match="uncensored data"):
            StreamingDataLoader(source)


def test_a_folder_that_is_a_link_to_it(forbidden, tmp_path):
    root, _ = forbidden
    (tmp_path / "innocent").symlink_to(root / "uncensored")
    with pytest.raises(DataError, match="uncensored data"):
        StreamingDataLoader(tmp_path / "innocent")


def test_a_project_with_the_word_in_its_name_has_ordinary_data(tmp_path):
    data = tmp_path / "my-uncensored-study/data/a.jsonl"
    data.parent.mkdir(parents=True)
    data.write_text(lines(rows("x", 1)))
    assert len(list(StreamingDataLoader(data))) == 1


def test_a_position_does_not_open_the_door(forbidden):
    root, _ = forbidden
    loader = StreamingDataLoader(root, allow_uncensored=True)
    next(iter(loader))
    with pytest.raises(DataError, match=r"another order.*uncensored True.*uncensored False"):
        StreamingDataLoader(root, position=loader.position)


def test_images_grouped_by_theme(tmp_path):
    for folder in ("safe", "uncensored"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (4, 4), (200, 0, len(folder))).save(tmp_path / folder / "a.webp")
        (tmp_path / folder / "a.txt").write_text(f"caption of {folder}")
    loader = StreamingDataLoader(tmp_path)
    assert [r.target for r in loader] == ["caption of safe"]
    assert loader.skipped == {"uncensored": 1}


@pytest.mark.parametrize("mark", [True, 1, "true", "True"])
def test_marked_rows_in_any_spelling(tmp_path, mark):
    path = tmp_path / "a.jsonl"
    path.write_text(
        lines([{"input": "x", "target": "y", "uncensored": mark}, {"input": "s", "target": "t", "uncensored": False}])
    )
    loader = StreamingDataLoader(path)
    assert [r.input for r in loader] == ["s"]
    assert loader.skipped == {"uncensored record": 1}
    assert len(list(StreamingDataLoader(path, allow_uncensored=True))) == 2


@pytest.mark.parametrize(
    ("card", "barred"),
    [
        (CARD, True),
        (CARD.replace("\n", "\r\n"), True),
        ("\ufeff" + CARD, True),
        ("---\nuncensored: 'yes'\n---\n", True),
        ("---\nuncensored: false\n---\n", False),
        ("# A set\nuncensored: true\n", False),
        ("---\ntags: [uncensored]\n---\n", False),
    ],
)
def test_dataset_cards(tmp_path, card, barred):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/README.md").write_bytes(card.encode())
    (tmp_path / "sub/a.jsonl").write_text(lines(rows("x", 1)))
    (tmp_path / "b.jsonl").write_text(lines(rows("y", 1)))
    assert len(list(StreamingDataLoader(tmp_path))) == (1 if barred else 2)


def test_options_cannot_open_the_door(forbidden):
    root, known = forbidden
    options = LoaderOptions(bad_rows="skip", tensorboard=True, modality="text", keys=("input", "target"))
    assert {digest(r) for r in StreamingDataLoader(root, options=options)} <= known["safe"]
