"""What transformers and peft read."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus_core.bundle.export.hf import read_hf, write_hf
from nexus_core.bundle.export.peft import read_peft, write_peft
from nexus_core.bundle.export.plain import as_plain
from nexus_core.errors import ModelError, UsageError
from nexus_core.types import GenerateOptions, Sample

peft = pytest.importorskip("peft")
QUESTION = [Sample("1", "What is 3 + 4?", "7"), Sample("2", "def add(a, b):", "x")]


@torch.no_grad()
@pytest.mark.parametrize("capability", [None, "reasoning"])
def test_a_checkpoint_that_needs_no_nexus(student, ids, tmp_path, capability):
    write_hf(tmp_path / "hf", student, capability, "fp32")
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf")
    assert type(theirs).__name__ == "LlamaForCausalLM"
    torch.testing.assert_close(
        theirs(ids).logits, as_plain(student.model, capability)(ids).logits, atol=1e-5, rtol=1e-5
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "hf")
    assert tokenizer("it's 42")["input_ids"] == student.tokenizer("it's 42")["input_ids"]
    assert tokenizer.chat_template == student.tokenizer.chat_template


def test_it_answers_and_stops_where_the_student_does(student, tmp_path):
    from nexus_core.student.answer import StudentAnswerer

    write_hf(tmp_path / "hf", student, None, "fp32")
    options = GenerateOptions(max_new_tokens=12)
    ours = StudentAnswerer(student.model, student.tokenizer, None).generate(QUESTION, options)
    assert read_hf(tmp_path / "hf").generate(QUESTION, options) == ours
    assert all(ours)


def test_half_precision_is_written_and_a_weight_beyond_it_is_named(student, tmp_path):
    write_hf(tmp_path / "half", student, "tools", "fp16")
    assert {t.dtype for t in load_file(tmp_path / "half/model.safetensors").values()} == {torch.float16}
    student.model.blocks[1].mlp.up_proj.weight.data[0, 0] = 1e6
    with pytest.raises(ModelError, match=r"layers.1.mlp.up_proj.weight does not fit fp16") as raised:
        write_hf(tmp_path / "over", student, None, "fp16")
    assert "--dtype fp32" in raised.value.hint


@torch.no_grad()
def test_adapters_over_one_base(student, ids, tmp_path):
    write_peft(tmp_path, student, ["reasoning", "tools"], "fp32")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    silent = student.model(ids).logits
    torch.testing.assert_close(base(ids).logits, silent, atol=1e-5, rtol=1e-5)
    for name in ("reasoning", "tools"):
        theirs = read_peft(tmp_path, name)._model(ids).logits
        torch.testing.assert_close(theirs, as_plain(student.model, name)(ids).logits, atol=1e-4, rtol=1e-4)
        assert (theirs - silent).abs().max() > 0.1


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
def test_an_adapter_merges_into_the_base(student, ids, tmp_path):
    write_peft(tmp_path, student, ["reasoning"], "fp32")
    model = peft.PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "reasoning"
    )
    merged = model.merge_and_unload()
    torch.testing.assert_close(
        merged(ids).logits, as_plain(student.model, "reasoning")(ids).logits, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_deltas_alone_stand_on_the_plain_backbone(student, ids, tmp_path):
    torch.nn.init.zeros_(student.model.adapters["tools"].sites["1"].gate)
    write_peft(tmp_path, student, ["tools"], "fp32")
    config = json.loads((tmp_path / "base/config.json").read_text())
    assert config["num_hidden_layers"] == 2 and not config["mlp_bias"]
    theirs = read_peft(tmp_path, "tools")._model(ids).logits
    with student.model.using("tools"):
        torch.testing.assert_close(theirs, student.model(ids).logits, atol=1e-5, rtol=1e-5)


def test_a_capability_called_as_the_base_is_refused(student, tmp_path):
    with pytest.raises(UsageError, match='"base" has no place'):
        write_peft(tmp_path, student, ["base"], "fp32")
