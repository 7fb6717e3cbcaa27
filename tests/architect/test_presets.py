"""Presets are data: those that ship are sound, and a faulty file is said with its place."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.resources import files

import pytest
import yaml

from nexus_core.architect import presets as module
from nexus_core.architect.budget import teacher_size, written_size
from nexus_core.architect.presets import load_presets
from nexus_core.errors import DataError, UsageError


def shipped() -> dict:
    return yaml.safe_load(files(module.__package__).joinpath("presets.yaml").read_text())


def test_those_that_ship(registry):
    presets = load_presets()
    assert list(presets.presets) == ["tiny", "small", "design"]
    assert presets.tower_latent_factor == 1.2
    tiny = presets.preset("tiny")
    assert (tiny.source, tiny.config) == ("zoo-backbone", None)
    assert (tiny.budget.share_of_teachers, tiny.budget.within_largest_teacher) == (0.5, True)
    for name in ("small", "design"):  # whatever tower the registry has, they can hear it
        assert set(presets.preset(name).towers) == set(registry.towers)
    assert presets.preset("design").towers["text"].thought_tokens == 0
    with pytest.raises(UsageError, match='did you mean "design"'):
        presets.preset("desing")


def change(path: str, value: object) -> dict:
    document = json.loads(json.dumps(shipped()))  # what YAML shares between presets is then apart
    *keys, last = path.split(".")
    here = document
    for key in keys:
        here = here[key]
    if value is None:
        del here[last]
    else:
        here[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("version", 2, "version"),
        ("presets.tiny.router", None, "presets.tiny: 'router' is a required property"),
        ("presets.tiny.routr", {}, "presets.tiny"),
        ("presets.tiny.backbone", {}, "presets.tiny.backbone"),
        ("presets.tiny.backbone", {"source": "x", "config": {}}, "presets.tiny.backbone"),
        ("presets.tiny.adapters.delta_targets", ["lm_head"], "presets.tiny.adapters.delta_targets.0"),
        ("presets.tiny.adapters.delta_rank", {"least": 5, "most": 4}, "least 5 is above most 4"),
        ("presets.tiny.adapters.rank_most", 0, "presets.tiny.adapters.rank_most"),
        ("presets.tiny.budget.reserve", 1.0, "presets.tiny.budget.reserve"),
        ("presets.small.towers.voice", {"thought_tokens": 4}, "presets.small.towers.voice"),
        ("presets.small.router.most", 4, "presets.small.router.most"),
        ("presets", {}, "presets"),
    ],
)
def test_a_faulty_file_is_said_with_its_place(tmp_path, path, value, said):
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump(change(path, value)))
    with pytest.raises(DataError, match=r"mine\.yaml") as error:
        load_presets(file)
    assert said in error.value.message


@pytest.mark.parametrize("content", [b"presets: [", b"\xff\xfe", b"[1, 2]", b"", b"!!python/object:os.system {}"])
def test_what_is_no_file_of_presets_is_refused(tmp_path, content):
    file = tmp_path / "mine.yaml"
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"mine\.yaml"):
        load_presets(file)


# --- sizes of teachers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("0.94M", 940_000),
        ("134.5M", 134_500_000),
        ("27B", 27 * 10**9),
        ("30B (MoE, active ~3B?)", 30 * 10**9),
        ("1T (MoE, 384 experts, about 8 active)", 10**12),
        ("Medium (~2B est.)", 2 * 10**9),
        ("400M (SO400M)", 400 * 10**6),
        ("12 K", 12_000),
    ],
)
def test_a_size_in_words(registry, written, size):
    assert written_size(replace(registry.teachers["ada"], parameters=written)) == size


@pytest.mark.parametrize("written", ["Not specified", "Not specified (tokenizer)", "", "12", "2Bit"])
def test_a_size_that_is_none(registry, written):
    with pytest.raises(DataError, match="is not known"):
        written_size(replace(registry.teachers["ada"], parameters=written))


def test_a_present_teacher_is_measured_by_its_headers(registry):
    assert teacher_size(registry, "zoo-backbone") == 2 * 3 + 5  # the row says 50K
    assert teacher_size(registry, "ada") == 60_000
    shard = registry.path.parent / "backbone" / "model.safetensors"
    for content in (b"", b"\xff" * 8 + b"{}", (2).to_bytes(8, "little") + b"{]", (2).to_bytes(8, "little") + b"[]"):
        shard.write_bytes(content)
        with pytest.raises(DataError, match=r"model\.safetensors is damaged"):
            teacher_size(registry, "zoo-backbone")
