"""An adapter's deltas as PEFT's own library reads them."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from nexus_core.errors import UsageError

peft = pytest.importorskip("peft")


@pytest.fixture
def student(make):
    student = make(trained=True)
    for adapter in student.adapters.values():
        for site in adapter.sites.values():
            torch.nn.init.zeros_(site.gate)
    return student


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft 0.21 asks for it
@pytest.mark.parametrize("capability", ["reasoning", "code"])
def test_peft_computes_what_the_student_computes(student, ids, tmp_path, capability):
    tensors, config = student.peft_state(capability)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    plain = student.plain()
    with torch.no_grad():
        silent = plain(ids).logits
        theirs = peft.PeftModel.from_pretrained(plain, tmp_path).eval()(ids).logits
        with student.using(capability):
            ours = student(ids).logits
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert (ours - silent).abs().max() > 0.01


def test_every_delta_is_in_it_and_nothing_else(student):
    tensors, config = student.peft_state("code")
    deltas = student.adapters["code"].deltas
    assert len(tensors) == 2 * len(deltas) == 12
    assert config["target_modules"] == ["gate_proj", "o_proj", "v_proj"]
    tensors["base_model.model.model.layers.0.mlp.gate_proj.lora_A.weight"].zero_()
    assert deltas["0__mlp__gate_proj"].a.any(), "they share no memory"


def test_an_open_bottleneck_has_no_form_there(student):
    student.adapters["code"].sites["1"].gate.data.fill_(0.1)
    with pytest.raises(UsageError, match='"code" has an open bottleneck after block 1'):
        student.peft_state("code")


def test_without_deltas_there_is_nothing_to_export(student, build):
    from nexus_core.student.arch import AdapterArch, Site

    student.add_adapter(AdapterArch("tools", "text", "t", (Site(0, 3, "x"),), 0, ()), build)
    with pytest.raises(UsageError, match="no low-rank deltas"):
        student.peft_state("tools")
