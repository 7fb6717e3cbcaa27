"""What `open_bundle` gives: the student that was written, part by part, from what was checked and without the disk."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.reader import open_bundle
from nexus_core.errors import DataError, ModelError, UsageError
from nexus_core.student.files import Student

IDS = torch.tensor([[5, 9, 200, 33, 7, 120]])
OPTIONAL = {
    "adapters/tools_adapter.safetensors": 'the adapter of "tools"',
    "adapters/uncensored_adapter.safetensors": 'the adapter of "uncensored"',
    "router/router.safetensors": "the router",
}


@torch.inference_mode()
def logits(student: Student, capability: str | None) -> torch.Tensor:
    with student.model.using(capability, allow_isolated=True):
        return student.model(IDS).logits


@pytest.fixture(scope="module")
def written(tiny: ModuleType) -> Student:
    return tiny.student()


@pytest.mark.parametrize("tied", [True, False])
def test_an_fp32_bundle_is_the_student_bit_for_bit(tiny: ModuleType, tmp_path: Path, tied: bool) -> None:
    own = tiny.student(tie_word_embeddings=tied)
    read = open_bundle(tiny.make(tmp_path / "bundle", own)).student()
    for name in (None, "reasoning", "tools", "uncensored"):
        assert torch.equal(logits(read, name), logits(own, name)), name
    assert (read.model.lm_head.weight is read.model.model.embed_tokens.weight) is tied
    assert {name for name, _ in read.model.named_parameters()} == {name for name, _ in own.model.named_parameters()}
    text = ["one Ünïcode 東京 text"]
    assert read.tokenizer(text)["input_ids"] == own.tokenizer(text)["input_ids"]
    assert read.router is not None and own.router is not None
    for name, tensor in own.router.state_dict().items():
        assert torch.equal(read.router.state_dict()[name], tensor)
    assert not read.model.training and read.model.generation_config.eos_token_id == 2


def test_the_backbone_comes_without_adapters_and_each_is_added_alone(bundle: Path, written: Student) -> None:
    opened = open_bundle(bundle)
    model = opened.model()
    assert not model.adapters and torch.equal(logits(Student(model, None, opened.arch), None), logits(written, None))
    opened.add_adapter(model, "agent")
    assert list(model.adapters) == ["tools"]
    assert torch.equal(logits(Student(model, None, opened.arch), "tools"), logits(written, "tools"))
    model.remove_adapter("tools")
    opened.add_adapter(model, "tools")
    assert torch.equal(logits(Student(model, None, opened.arch), "tools"), logits(written, "tools"))


def test_the_isolated_adapter_changes_no_bit_of_the_others(bundle: Path) -> None:
    """Absent from the directory, present, and built."""

    def found(path: Path, capabilities: list[str]) -> dict[str | None, torch.Tensor]:
        student = open_bundle(path).student(capabilities)
        return {name: logits(student, name) for name in (None, "reasoning", "tools")}

    present, built = found(bundle, ["reasoning", "tools"]), found(bundle, ["uncensored", "reasoning", "tools"])
    (bundle / "adapters/uncensored_adapter.safetensors").unlink()
    absent = found(bundle, ["reasoning", "tools"])
    for name, tensor in present.items():
        assert torch.equal(tensor, built[name]) and torch.equal(tensor, absent[name]), name


def test_after_opening_nothing_is_read(bundle: Path, written: Student) -> None:
    opened = open_bundle(bundle)
    shutil.rmtree(bundle)
    model = opened.model()
    opened.add_adapter(model, "reasoning")
    assert opened.router() is not None
    assert torch.equal(logits(Student(model, None, opened.arch), "reasoning"), logits(written, "reasoning"))
    with pytest.raises(ModelError, match=r"uncensored_adapter\.safetensors is missing"):
        opened.add_adapter(model, "uncensored")  # an isolated adapter was hashed, and not held


def test_a_second_model_is_one_of_its_own(bundle: Path) -> None:
    opened = open_bundle(bundle)
    first, second = opened.model(), opened.model()
    assert first.lm_head.weight.data_ptr() != second.lm_head.weight.data_ptr()
    assert torch.equal(first.lm_head.weight, second.lm_head.weight)


def test_precision_is_the_models(bundle: Path) -> None:
    opened = open_bundle(bundle)
    model = opened.model(dtype=torch.bfloat16)
    opened.add_adapter(model, "tools")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.model.rotary_emb.inv_freq.dtype is torch.float32


@pytest.mark.parametrize("name", OPTIONAL)
def test_a_missing_optional_part_is_an_error_when_it_is_asked_for(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    opened = open_bundle(bundle)
    model = opened.model()
    opened.add_adapter(model, "reasoning")
    with pytest.raises(ModelError, match=OPTIONAL[name]) as caught:
        opened.router() if "router" in name else opened.add_adapter(model, name.split("/")[1].split("_")[0])
    assert name in caught.value.message
    assert list(model.adapters) == ["reasoning"]


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "verify_report.json"])
def test_a_missing_text_is_an_error_when_it_is_asked_for(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    opened = open_bundle(bundle)
    opened.student()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        opened.text(name)


@pytest.mark.parametrize("name", ["backbone/backbone.safetensors", "backbone/config.json", "tokenizer/tokenizer.json"])
def test_a_missing_required_file_is_an_error_at_once(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        open_bundle(bundle)


def test_what_is_no_bundle(tmp_path: Path) -> None:
    for read in (open_bundle, read_manifest):
        with pytest.raises(ModelError, match="no such directory"):
            read(tmp_path / "nowhere")
    with pytest.raises(DataError, match="not a bundle"):
        open_bundle(tmp_path)


def test_unchecked_is_only_what_was_asked_to_be(tiny: ModuleType, bundle: Path) -> None:
    own = tiny.student()
    path = bundle / "adapters/tools_adapter.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=r"tools_adapter\.safetensors was changed"):
        open_bundle(bundle)
    read = open_bundle(bundle, verify=False).student()
    assert not torch.equal(logits(read, "tools"), logits(own, "tools"))
    assert torch.equal(logits(read, "reasoning"), logits(own, "reasoning"))


def test_an_isolated_adapter_is_hashed_at_opening_and_again_when_it_is_read(bundle: Path) -> None:
    path = bundle / "adapters/uncensored_adapter.safetensors"
    opened = open_bundle(bundle)
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ModelError, match=r"uncensored_adapter\.safetensors was changed"):
        opened.add_adapter(opened.model(), "uncensored")
    with pytest.raises(ModelError, match=r"uncensored_adapter\.safetensors was changed"):
        open_bundle(bundle)


def test_two_loads_give_equal_outputs_and_a_zip_unpacks_anywhere(bundle: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w") as archive:
        for path in sorted(bundle.rglob("*")):
            archive.write(path, path.relative_to(bundle.parent))
    with zipfile.ZipFile(tmp_path / "bundle.zip") as archive:
        archive.extractall(tmp_path / "elsewhere")
    first, second = (open_bundle(path).student() for path in (bundle, tmp_path / "elsewhere/bundle"))
    for name in (None, "reasoning", "tools", "uncensored"):
        assert torch.equal(logits(first, name), logits(second, name))


def test_texts(bundle: Path) -> None:
    opened = open_bundle(bundle)
    assert "NexusModel.load" in opened.text("README.md") and opened.report()["verdict"] == "pass"
    with pytest.raises(UsageError, match="has no poem"):
        opened.text("poem")


def test_tensors_that_do_not_fit_the_plan_are_named(tiny: ModuleType, bundle: Path) -> None:
    """With hashes that are right: somebody wrote a bundle of parts that do not belong together."""
    adapters = bundle / "adapters"
    shutil.copy(adapters / "tools_adapter.safetensors", adapters / "reasoning_adapter.safetensors")
    tiny.relist(bundle)
    opened = open_bundle(bundle)
    model = opened.model()
    with pytest.raises(ModelError, match=r"reasoning_adapter.safetensors: .* does not fit"):
        opened.add_adapter(model, "reasoning")
    assert not model.adapters
