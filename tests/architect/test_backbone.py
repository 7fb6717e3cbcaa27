"""The backbone's configuration comes from a checkpoint in the Llama layout, from a preset, and never from a teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
from transformers import LlamaConfig

from nexus_core.architect.architect import Request
from nexus_core.architect.backbone import find_backbone, llama_config
from nexus_core.architect.presets import load_presets
from nexus_core.errors import DataError, ModelError, UsageError


def test_a_checkpoint_of_the_registry_gives_its_own_shape(registry):
    found = find_backbone(registry, "zoo-backbone", None)
    assert found.source == "zoo-backbone"
    assert (found.config["hidden_size"], found.config["num_hidden_layers"], found.config["head_dim"]) == (32, 3, 8)
    assert not {"model_type", "architectures", "dtype", "transformers_version"} & set(found.config)
    assert LlamaConfig(**found.config).hidden_size == 32


def test_a_directory_gives_its_shape_and_is_named_whole(registry, make_backbone, tmp_path, monkeypatch):
    make_backbone(tmp_path / "mine", hidden_size=64)
    monkeypatch.chdir(tmp_path)
    found = find_backbone(registry, "mine", None)
    assert (found.config["hidden_size"], found.source) == (64, str(tmp_path / "mine"))


def test_a_student_of_it_says_so_and_random_keeps_the_shape(bench):
    bench.profile("ada", "reasoning")
    bench.profile("bob", "code")
    bench.profile("cyd", "tools")
    named = bench.architect.design(Request("tiny"))
    random = bench.architect.design(Request("tiny", backbone="random"))
    assert (named.backbone_source, random.backbone_source) == ("zoo-backbone", "random")
    assert named.backbone == random.backbone
    assert any(d.subject == "backbone random" and "random first weights" in d.reason for d in random.decisions)


def test_a_named_backbone_replaces_the_presets(bench):
    bench.profile("ada", "reasoning")
    arch = bench.architect.design(Request("small", backbone="zoo-backbone"))
    assert (arch.backbone["hidden_size"], arch.backbone_source) == (32, "zoo-backbone")


def test_a_teacher_is_no_backbone_whatever_it_is_called(registry, make_backbone):
    home = registry.path.parent
    make_backbone(home / "ada")
    rows = {**registry.teachers, "ada": replace(registry.teachers["ada"], path="ada")}
    registry = replace(registry, teachers=rows)
    for name in ("ada", str(home / "ada"), str(home / "x" / ".." / "ada"), "bob"):
        with pytest.raises(DataError, match="never starts from a teacher's weights"):
            find_backbone(registry, name, None)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model_type": "qwen3"}, "model_type 'qwen3'; the backbone must be in the Llama layout"),
        ({"model_type": None}, "model_type None"),
        ({"quantization_config": {"bits": 4}}, "quantised"),
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "32"}, "hidden_size is '32'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"num_attention_heads": True}, "num_attention_heads is True"),
        ({"num_key_value_heads": 3}, "4 heads cannot share 3 keys"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings is 'yes'"),
    ],
)
def test_what_is_no_llama_is_refused_with_its_key(registry, make_backbone, tmp_path, changes, said):
    with pytest.raises(DataError, match=r"config\.json") as error:
        find_backbone(registry, str(make_backbone(tmp_path / "other", **changes)), None)
    assert said in error.value.message


def test_absent_and_damaged_checkpoints_are_named(registry, tmp_path):
    with pytest.raises(UsageError, match='did you mean "zoo-backbone"'):
        find_backbone(registry, "zoo-backbon", None)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"no config\.json"):
        find_backbone(registry, str(empty), None)
    (empty / "config.json").write_text("{")
    with pytest.raises(ModelError, match="malformed JSON"):
        find_backbone(registry, str(empty), None)
    rows = {**registry.teachers, "zoo-backbone": replace(registry.teachers["zoo-backbone"], path="gone")}
    with pytest.raises(DataError, match="zoo-backbone is absent"):
        find_backbone(replace(registry, teachers=rows), "zoo-backbone", None)


@pytest.mark.parametrize(
    "rope",
    [
        {"rope_theta": 500000.0},
        {"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 7.0}},
    ],
)
def test_rope_of_older_checkpoints_is_what_transformers_makes_of_it(rope):
    shape = load_presets().preset("small").config
    values = {**{k: v for k, v in shape.items() if k != "rope_parameters"}, **rope}
    ours = llama_config(values, "here")
    assert set(ours) & {"rope_theta", "rope_scaling"} == set()
    assert LlamaConfig(**ours).rope_parameters == LlamaConfig(**values).rope_parameters
