"""A model directory is somebody else's data: it is read, never run, never leads elsewhere, and never hangs a command."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nexus_core.errors import ModelError
from nexus_core.hf import load_hf_teacher, read_config
from nexus_core.plugins import Plugins
from nexus_core.printable import one_line
from nexus_core.testing import tiny
from nexus_core.types import Category, Detection, GenerateOptions, LoadOptions, ModelSource, Sample

DETECTION = Detection(Category.TRANSFORMERS, "llama", 0.5, "a test")
SAMPLE = Sample("0", "one two", "")


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return tiny.save_causal_lm(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture
def path(llama, tmp_path):
    return Path(shutil.copytree(llama, tmp_path / "model"))


def load(path: Path):
    return load_hf_teacher(ModelSource(path), LoadOptions(), DETECTION)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.fixture
def bomb(tmp_path):
    trace = tmp_path / "executed"
    yield Bomb(trace)
    assert not trace.exists(), "a pickle was run"


# --- the index of a sharded checkpoint ---------------------------------------------------------------------------------


def index(path: Path, shard: object) -> None:
    """Make the checkpoint a sharded one whose index sends every tensor to `shard`; a sound shard lies beside it."""
    names = list(load_file(path / "model.safetensors"))
    (path / "model.safetensors").rename(path / "model-00001-of-00001.safetensors")
    text = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(names, shard)})
    (path / "model.safetensors.index.json").write_text(text)


def test_an_index_that_points_to_a_pickle_is_refused(path, bomb, monkeypatch):
    index(path, "weights.bin")
    torch.save({"x": bomb}, path / "weights.bin")
    opened: list[object] = []
    monkeypatch.setattr(torch, "load", lambda *arguments, **options: opened.append(arguments))
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json: .*weights\.bin"):
        load(path)
    assert opened == []


@pytest.mark.parametrize("shard", ["../outside.safetensors", "{}/outside.safetensors", "sub/../../outside.safetensors"])
def test_an_index_that_leads_out_of_the_directory_is_refused(path, tmp_path, shard):
    index(path, shard.format(tmp_path))
    shutil.copy(path / "model-00001-of-00001.safetensors", tmp_path / "outside.safetensors")
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json: .*outside\.safetensors"):
        load(path)


@pytest.mark.parametrize("shard", ["gone.safetensors", "", 3, None, ["x"], "."])
def test_an_index_of_shards_that_are_not_there_is_refused(path, shard):
    index(path, shard)
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json: "):
        load(path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}', "\udcff"])
def test_a_malformed_index_is_refused(path, text):
    index(path, "model-00001-of-00001.safetensors")
    (path / "model.safetensors.index.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ModelError, match=r"model\.safetensors\.index\.json: "):
        load(path)


def test_a_sound_index_is_followed(path):
    index(path, "model-00001-of-00001.safetensors")
    assert load(path).unused == ()


# --- a directory that wants to be another one --------------------------------------------------------------------------


def test_an_adapter_config_does_not_lead_to_another_model(path, tmp_path):
    """transformers follows `base_model_name_or_path` by itself when peft is installed."""
    other = tiny.save_causal_lm(tmp_path / "other", "llama", seed=7)
    settings = {"peft_type": "LORA", "base_model_name_or_path": str(other), "task_type": "CAUSAL_LM", "r": 2}
    (path / "adapter_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match=r"adapter_config\.json") as caught:
        load(path)
    assert "merge" in caught.value.hint


def test_a_config_cannot_name_code_or_a_quantiser_that_runs_it(path, tmp_path):
    config = json.loads((path / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "evil--repo.M"}
    config["_name_or_path"] = "evil/repo"
    config["custom_generate"] = "evil"
    (path / "config.json").write_text(json.dumps(config))
    (path / "custom_generate").mkdir()
    trace = tmp_path / "executed"
    (path / "custom_generate" / "generate.py").write_text(f"open({str(trace)!r}, 'w').close()")
    load(path).generate([SAMPLE], GenerateOptions(max_new_tokens=2))
    assert not trace.exists()


# --- chat templates ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ raise_exception('only for images') }}",
        "{{ absent.attribute.of.nothing }}",
        "{% for %}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_chat_template_that_cannot_be_rendered_is_an_error_of_the_model(path, template):
    (path / "chat_template.jinja").write_text(template)
    with pytest.raises(ModelError, match="chat template") as caught:
        load(path).prompt_text(SAMPLE)
    assert str(path) in str(caught.value)


# --- files that are no files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model.safetensors.index.json"])
@pytest.mark.parametrize("kind", ["fifo", "directory", "loop", "device", "dangling"])
def test_what_is_no_regular_file_is_not_waited_for(path, name, kind):
    target = path / name
    target.unlink(missing_ok=True)
    {
        "fifo": lambda: os.mkfifo(target),
        "directory": target.mkdir,
        "loop": lambda: target.symlink_to(target.name),
        "device": lambda: target.symlink_to("/dev/zero"),
        "dangling": lambda: target.symlink_to("nowhere"),
    }[kind]()
    with pytest.raises(ModelError, match=str(path)):
        load(path)


@pytest.mark.parametrize("kind", ["fifo", "loop", "device"])
def test_detection_waits_for_nothing_either(path, kind):
    target = path / "config.json"
    target.unlink()
    {
        "fifo": lambda: os.mkfifo(target),
        "loop": lambda: target.symlink_to(target.name),
        "device": lambda: target.symlink_to("/dev/zero"),
    }[kind]()
    assert read_config(path) is None
    with pytest.raises(ModelError, match="no teacher plugin recognises this"):
        Plugins(["transformers"]).detect(ModelSource(path))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
@pytest.mark.parametrize("content", ["[]", "{", "3", '{"tokenizer_class": "os.system"}', "\udcff"])
def test_nonsense_beside_the_weights_is_an_error_of_the_model_or_ignored(path, name, content):
    (path / name).write_bytes(content.encode("utf-8", "surrogateescape"))
    try:
        teacher = load(path)
    except ModelError as error:
        assert str(path) in str(error)
    else:
        assert len(teacher.generate([SAMPLE], GenerateOptions(max_new_tokens=2))) == 1


def test_a_name_with_control_characters_is_one_line(tmp_path):
    odd = tmp_path / "a\nb\x1b[2J"
    odd.mkdir()
    (odd / "x\ny").touch()
    with pytest.raises(ModelError) as caught:
        Plugins(["transformers"]).detect(ModelSource(odd))
    printed = one_line(caught.value.message)  # as the funnel prints it
    assert printed.isprintable()
    assert "a b [2J" in printed


def test_a_shard_may_hold_more_than_the_model_and_says_so(path):
    shard = path / "model.safetensors"
    save_file({**load_file(shard), "evil.weight": torch.ones(3)}, shard, metadata={"format": "pt"})
    assert load(path).unused == ("evil.weight",)
