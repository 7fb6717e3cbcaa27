"""From a plain checkpoint, to a directory and back: strict, whole, and the same bits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from nexus_core.errors import DataError, ModelError, NexusError
from nexus_core.hf.quiet import quiet
from nexus_core.student import NexusConfig, NexusForCausalLM, NexusStudent
from nexus_core.student.arch import TowerArch
from nexus_core.testing import tiny


def save(model, path):
    with quiet():
        model.save_pretrained(path)
    return path


@pytest.fixture
def saved(make, tmp_path):
    student = make(trained=True)
    return student, save(student, tmp_path / "student")


def answers(student, ids):
    said = []
    for capability in (None, "reasoning", "code", "secret"):
        with torch.no_grad(), student.using(capability, allow_isolated=True):
            said.append(student(ids).logits)
    thoughts = torch.linspace(-1, 1, 3 * 5 * 12, dtype=student.dtype).view(3, 5, 12)
    with torch.no_grad():
        said.append(student(ids, thoughts={"image": student.towers["image"](thoughts)}).logits)
    return said


@pytest.mark.parametrize("loader", [NexusForCausalLM, AutoModelForCausalLM])
def test_a_student_comes_back_with_every_bit(saved, ids, loader):
    student, path = saved
    again = loader.from_pretrained(path)
    assert type(again) is NexusForCausalLM
    assert not again.training
    assert again.chosen is None
    ours, theirs = student.state_dict(), again.state_dict()
    assert set(ours) == set(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert again.config.adapters == student.config.adapters
    assert again.config.towers == student.config.towers
    assert all(torch.equal(a, b) for a, b in zip(answers(student, ids), answers(again, ids), strict=True))


def test_in_half_precision_and_with_tied_embeddings(make, ids, tmp_path):
    whole = save(make(trained=True, tie_word_embeddings=True), tmp_path / "whole")
    student = NexusForCausalLM.from_pretrained(whole, dtype=torch.bfloat16)
    again = NexusForCausalLM.from_pretrained(save(student, tmp_path / "half"))
    assert again.model.rotary_emb.inv_freq.dtype == torch.float32
    assert {p.dtype for p in again.parameters()} == {torch.bfloat16}
    assert again.lm_head.weight is again.model.embed_tokens.weight
    assert all(torch.equal(a, b) for a, b in zip(answers(student, ids), answers(again, ids), strict=True))


def test_it_is_registered(saved):
    assert NexusStudent is NexusForCausalLM
    config = AutoConfig.from_pretrained(saved[1])
    assert type(config) is NexusConfig
    assert config.model_type == "nexus"
    assert sorted(config.adapters) == ["code", "reasoning", "secret"]


def test_what_was_added_and_removed_after_loading_is_saved(saved, build, tmp_path):
    student = NexusForCausalLM.from_pretrained(saved[1])
    arch = student.adapters["code"].arch
    student.remove_adapter("reasoning")
    student.remove_adapter("code")
    student.add_adapter(arch, build, seed=9)
    again = NexusForCausalLM.from_pretrained(save(student, tmp_path / "again"))
    assert sorted(again.adapters) == ["code", "secret"]
    assert all(torch.equal(t, again.state_dict()[name]) for name, t in student.state_dict().items())


def test_an_encoder_comes_back_when_it_is_given(make, tmp_path):
    student = make()
    arch = TowerArch("video", 8, 2, (0,), 1, 4, 6)
    student.add_tower(arch, encoder=torch.nn.Linear(3, 6))
    save(student, tmp_path)
    with pytest.raises(ModelError, match=r"towers\.video\.encoder\.bias.*") as caught:
        NexusForCausalLM.from_pretrained(tmp_path)
    assert "encoders=" in caught.value.hint
    again = NexusForCausalLM.from_pretrained(tmp_path, encoders={"video": torch.nn.Linear(3, 6)})
    raw = torch.randn(1, 4, 3)
    assert torch.equal(again.towers["video"](raw), student.towers["video"](raw))


def test_adapters_are_built_by_whom_one_says(saved, build):
    asked = []
    NexusForCausalLM.from_pretrained(saved[1], build=lambda plan: asked.append(plan) or build(plan))
    assert {(p.capability, p.tower, p.hidden_size, p.rank, p.block) for p in asked} == {
        ("reasoning", "text", 32, 4, 0),
        ("reasoning", "text", 32, 5, 1),
        ("code", "text", 32, 6, 1),
        ("secret", "text", 32, 4, 0),
    }


KEYS = [
    "adapters.reasoning.sites.0.down.weight",
    "adapters.code.deltas.1__self_attn__v_proj.a",
    "model.layers.0.ports.image.gate",
    "towers.voice.queries",
    "model.layers.1.mlp.up_proj.weight",
]


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_tensor_is_an_error(saved, key):
    path = saved[1] / "model.safetensors"
    tensors = load_file(path)
    del tensors[key]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        NexusForCausalLM.from_pretrained(saved[1])
    assert key in caught.value.message


@pytest.mark.parametrize("key", ["adapters.other.sites.0.gate", "model.layers.0.ports.smell.gate", "surplus"])
def test_an_unknown_tensor_is_an_error(saved, key):
    path = saved[1] / "model.safetensors"
    save_file({**load_file(path), key: torch.zeros(2)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        NexusForCausalLM.from_pretrained(saved[1])
    assert key in caught.value.message


def test_a_tensor_of_another_shape_or_with_nan_is_an_error(saved):
    path, key = saved[1] / "model.safetensors", "adapters.code.sites.1.up.weight"
    tensors = load_file(path)
    save_file({**tensors, key: torch.zeros(2, 2)}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=key):
        NexusForCausalLM.from_pretrained(saved[1])
    save_file({**tensors, key: tensors[key] * float("nan")}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"{key} holds NaN"):
        NexusForCausalLM.from_pretrained(saved[1])


def edit(path, change):
    config = json.loads((path / "config.json").read_text())
    change(config)
    (path / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["adapters"]["code"].pop("delta_rank"), "adapters.code: the key 'delta_rank' is missing"),
        (lambda c: c["adapters"]["code"].update(extra=1), "adapters.code: unknown key 'extra'"),
        (lambda c: c["adapters"]["code"].update(capability="tools"), "'code' calls itself 'tools'"),
        (lambda c: c["towers"]["image"].pop("latent_size"), "towers.image: the key 'latent_size' is missing"),
        (lambda c: c["adapters"]["code"]["sites"][0].update(block=7), "there is no block 7"),
        (lambda c: c["adapters"].pop("code"), "adapters.code"),
    ],
)
def test_a_config_that_does_not_fit_is_named(saved, change, message):
    edit(saved[1], change)
    with pytest.raises(NexusError) as caught:
        NexusForCausalLM.from_pretrained(saved[1])
    assert message in caught.value.message


def test_a_tower_without_its_plugin_is_named(saved):
    edit(saved[1], lambda c: c["adapters"]["code"].update(tower="taste"))
    with pytest.raises(NexusError, match="taste"):
        NexusForCausalLM.from_pretrained(saved[1])


def test_only_a_safe_local_directory_is_read(saved):
    path = saved[1]
    with pytest.raises(ModelError, match="no such directory"):
        NexusForCausalLM.from_pretrained("somebody/model")
    (path / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/model"}')
    with pytest.raises(ModelError, match="holds an adapter"):
        NexusForCausalLM.from_pretrained(path)
    (path / "adapter_config.json").unlink()
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(ModelError, match="only pickled weights"):
        NexusForCausalLM.from_pretrained(path)


# --- from a plain checkpoint --------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    return tiny.save_causal_lm(tmp_path / "plain")


@pytest.fixture
def planned(arch):
    return arch(vocab_size=259, initializer_range=0.02)


def test_a_plain_checkpoint_directory_becomes_a_students_backbone(checkpoint, planned, build, ids):
    plain = LlamaForCausalLM.from_pretrained(checkpoint).eval()
    for source in (checkpoint, str(checkpoint), plain):
        student = NexusForCausalLM.from_backbone(source, planned, build)
        assert not student.training
        assert list(student.adapters) == ["reasoning", "code", "secret"]
        assert list(student.towers) == ["image", "voice"]
        state = student.backbone_state()
        assert list(state) == list(plain.state_dict())
        assert all(torch.equal(state[name], t) for name, t in plain.state_dict().items())
        with torch.no_grad():
            torch.testing.assert_close(student(ids).logits, plain(ids).logits, atol=1e-6, rtol=1e-6)
            assert torch.equal(student(ids).logits, student.plain()(ids).logits)
    state["lm_head.weight"].zero_()
    assert plain.lm_head.weight.any(), "the student has weights of its own"


def test_a_checkpoint_in_half_precision_is_taught_in_full(planned, build, tmp_path):
    plain = LlamaForCausalLM.from_pretrained(tiny.save_causal_lm(tmp_path), dtype=torch.bfloat16)
    student = NexusForCausalLM.from_backbone(save(plain, tmp_path), planned, build)
    assert {p.dtype for p in student.parameters()} == {torch.float32}
    assert torch.equal(student.lm_head.weight, plain.lm_head.weight.float())


def test_a_half_precision_backbone_keeps_its_angles(checkpoint, planned, build, ids):
    plain = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.bfloat16).eval()
    student = NexusForCausalLM.from_backbone(plain, planned, build)
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    for model in (student, student.plain()):
        assert torch.equal(model.model.rotary_emb.inv_freq, plain.model.rotary_emb.inv_freq)
        assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    with torch.no_grad():
        assert torch.equal(student(ids).logits, student.plain()(ids).logits)


def test_a_backbone_other_than_planned_is_an_error(checkpoint, arch, build):
    with pytest.raises(DataError, match="num_hidden_layers 2, and 3 was planned"):
        NexusForCausalLM.from_backbone(checkpoint, arch(num_hidden_layers=3, initializer_range=0.02), build)


def test_a_backbone_that_is_not_whole_or_no_llama_is_an_error(checkpoint, planned, build, tmp_path):
    tensors = load_file(checkpoint / "model.safetensors")
    left = {name: t for name, t in tensors.items() if name != "model.norm.weight"}
    save_file(left, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"model\.norm\.weight"):
        NexusForCausalLM.from_backbone(checkpoint, planned, build)
    more = {**tensors, "model.layers.0.self_attn.q_norm.weight": torch.ones(8)}
    save_file(more, checkpoint / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match="q_norm"):
        NexusForCausalLM.from_backbone(checkpoint, planned, build)
    shutil.rmtree(checkpoint)
    with pytest.raises(ModelError, match="no such directory"):
        NexusForCausalLM.from_backbone(checkpoint, planned, build)


def test_a_random_backbone_depends_on_the_plans_seed_alone(arch, build):
    torch.manual_seed(1)
    first = NexusForCausalLM.from_backbone(None, arch(), build).state_dict()
    torch.manual_seed(2)
    again = NexusForCausalLM.from_backbone(None, arch(), build).state_dict()
    assert all(torch.equal(t, again[name]) for name, t in first.items())


def test_a_plan_is_read_without_torch():
    code = "import sys, nexus_core.student; nexus_core.student.read_arch; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_package_says_what_it_does_not_have():
    import nexus_core.student as package

    with pytest.raises(AttributeError, match="NoSuchThing"):
        package.NoSuchThing  # noqa: B018
