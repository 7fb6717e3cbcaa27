"""A whole student in a directory: every bit comes back, a kill at any moment leaves one to read, damage is named."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, LlamaForCausalLM

from nexus_core.errors import DataError, ModelError, NexusError
from nexus_core.student.arch import RouterArch
from nexus_core.student.files import Student, read_student, write_adapter, write_student
from nexus_core.student.router import SparseIntentRouter
from nexus_core.testing import tiny

CAPABILITIES = (None, "reasoning", "code", "secret")


@pytest.fixture
def student(make, arch):
    router = SparseIntentRouter(RouterArch(("reasoning", "code"), 64, 4, 1), seed=3)
    return Student(make(trained=True), tiny.byte_tokenizer(), arch(), router)


@pytest.fixture
def path(student, tmp_path):
    write_student(tmp_path / "run" / "student", student)
    return tmp_path / "run" / "student"


def answers(model, ids):
    thoughts = torch.linspace(-1, 1, 3 * 5 * 12).view(3, 5, 12)
    found = []
    for capability in CAPABILITIES:
        with torch.no_grad(), model.using(capability, allow_isolated=True):
            found.append(model(ids).logits)
            found.append(model(ids, thoughts={"image": model.towers["image"](thoughts)}).logits)
    return found


def bytes_of(path):
    return {f.relative_to(path).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files(path)}


def files(path):
    return sorted(f for f in path.rglob("*") if f.is_file())


def same(student, found, ids):
    pairs = zip(answers(student.model, ids), answers(found.model, ids), strict=True)
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


def test_every_bit_comes_back(student, path, ids):
    found = read_student(path)
    assert same(student, found, ids)
    ours, theirs = student.model.state_dict(), found.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert found.arch == student.arch
    assert found.tokenizer.get_vocab() == student.tokenizer.get_vocab()
    assert found.model.generation_config.eos_token_id == 2
    assert not found.model.training
    for name, tensor in student.router.state_dict().items():
        assert torch.equal(tensor, found.router.state_dict()[name])


def test_the_layout_is_the_one_that_is_described(path):
    names = {f.relative_to(path).as_posix() for f in files(path)}
    assert {n for n in names if not n.startswith("backbone/")} == {
        "student_arch.json",
        "router.safetensors",
        "adapters/code.safetensors",
        "adapters/reasoning.safetensors",
        "adapters/secret.safetensors",
        "towers/image.safetensors",
        "towers/voice.safetensors",
    }
    assert {"backbone/config.json", "backbone/model.safetensors", "backbone/tokenizer.json"} <= names
    assert [f.name for f in path.parent.iterdir()] == ["student"]


def test_the_backbone_is_a_checkpoint_that_transformers_loads(student, path, ids):
    plain = LlamaForCausalLM.from_pretrained(path / "backbone").eval()
    tokenizer = AutoTokenizer.from_pretrained(path / "backbone")
    assert tokenizer("naïve 17")["input_ids"] == student.tokenizer("naïve 17")["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, student.model(ids).logits, atol=1e-5, rtol=1e-5)
    state = plain.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in student.model.backbone_state().items())


def test_the_same_student_is_the_same_bytes(student, path, tmp_path):
    write_student(tmp_path / "again", student)
    assert bytes_of(path) == bytes_of(tmp_path / "again")
    read = read_student(path)
    write_student(tmp_path / "read", read)
    write_student(tmp_path / "again", read_student(tmp_path / "read"))
    assert bytes_of(tmp_path / "read") == bytes_of(tmp_path / "again")
    changed = {name for name, digest in bytes_of(path).items() if bytes_of(tmp_path / "read")[name] != digest}
    assert changed <= {"backbone/tokenizer_config.json"}, "transformers notes that a tokenizer was loaded from files"


def test_one_adapter_is_written_and_nothing_else(student, path, ids):
    before = bytes_of(path)
    with torch.no_grad():
        for parameter in student.model.adapters["code"].parameters():
            parameter.add_(0.1)
    write_adapter(path, student.model, "code")
    after = bytes_of(path)
    assert {name for name in after if after[name] != before.get(name)} == {"adapters/code.safetensors"}
    assert before.keys() == after.keys()
    assert same(student, read_student(path), ids)


def test_without_a_router_there_is_none(student, tmp_path):
    write_student(tmp_path / "student", replace(student, router=None))
    assert read_student(tmp_path / "student").router is None


# --- killed -------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Nothing in the writer runs after it, as after SIGKILL."""


@pytest.fixture
def other(make, arch):
    """A later student, which replaces the first."""
    return Student(make(trained=True, dtype=torch.float32).requires_grad_(False), tiny.byte_tokenizer(), arch())


def killed_at(monkeypatch, number):
    """The process ends before its rename number `number`, or, from 100 on, before file number `number` - 100 is synced."""
    rename, count = Path.rename, iter(range(1000))

    def dying(self, target):
        if next(count) == number:
            raise Killed
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", dying)


@pytest.mark.parametrize("number", [0, 1])
def test_killed_at_a_rename_the_old_student_is_still_there(student, path, other, ids, monkeypatch, number):
    with torch.no_grad():
        other.model.lm_head.weight.add_(1)
    with monkeypatch.context() as patch:
        killed_at(patch, number)
        with pytest.raises(Killed):
            write_student(path, other)
    assert path.exists() == (number == 0)
    assert same(student, read_student(path), ids)
    assert path.is_dir(), "it is back in its place"
    write_student(path, other)
    assert same(other, read_student(path), ids)
    assert [f.name for f in path.parent.iterdir()] == ["student"], "what the killed one left is gone"


def test_killed_between_the_renames_the_next_writer_needs_no_reader(path, other, ids, monkeypatch):
    with monkeypatch.context() as patch:
        killed_at(patch, 1)
        with pytest.raises(Killed):
            write_student(path, other)
    write_student(path, other)
    assert same(other, read_student(path), ids)
    assert [f.name for f in path.parent.iterdir()] == ["student"]


def test_killed_while_writing_the_old_student_is_untouched(student, path, other, ids, monkeypatch):
    before = bytes_of(path)

    def dying(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("nexus_core.student.files.write_arch", dying)
        with pytest.raises(Killed):
            write_student(path, other)
    assert bytes_of(path) == before
    assert same(student, read_student(path), ids)
    (path.parent / ".student.draft" / "adapters" / "left.safetensors").write_bytes(b"of somebody else")
    write_student(path, other)
    assert same(other, read_student(path), ids)
    assert [f.name for f in path.parent.iterdir()] == ["student"]


def test_an_old_one_that_was_not_yet_removed_does_not_matter(path, other, ids):
    shutil.copytree(path, path.with_name(".student.old"))
    (path.with_name(".student.old") / "student_arch.json").unlink()
    write_student(path, other)
    assert same(other, read_student(path), ids)
    assert [f.name for f in path.parent.iterdir()] == ["student"]


# --- strict -------------------------------------------------------------------------------------------------------

ADAPTER = "adapters/code.safetensors"


def test_where_there_is_no_student_it_says_so(tmp_path):
    with pytest.raises(DataError, match="there is no student in") as caught:
        read_student(tmp_path / "student")
    assert "nexus distill" in caught.value.hint


@pytest.mark.parametrize(
    "name",
    [ADAPTER, "towers/image.safetensors", "student_arch.json", "backbone/model.safetensors", "backbone/tokenizer.json"],
)
def test_what_is_missing_is_named(path, name):
    (path / name).unlink()
    with pytest.raises(NexusError) as caught:
        read_student(path)
    assert str(path / name) in caught.value.message or str((path / name).parent) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize("keep", [0, 4, 60, -1])
def test_a_cut_off_adapter_is_named(path, keep):
    content = (path / ADAPTER).read_bytes()
    (path / ADAPTER).write_bytes(content[:keep])
    with pytest.raises(ModelError, match=r"adapters/code\.safetensors cannot be read"):
        read_student(path)


def test_an_adapter_that_is_a_directory_is_named(path):
    (path / ADAPTER).unlink()
    (path / ADAPTER).mkdir()
    with pytest.raises(ModelError, match=r"adapters/code\.safetensors cannot be read"):
        read_student(path)


def without_one(tensors):
    tensors.pop("sites.1.gate")


def with_another(tensors):
    tensors["sites.0.gate"] = torch.zeros(())


def of_another_shape(tensors):
    tensors["sites.1.gate"] = torch.zeros(3)


def of_another_kind(tensors):
    tensors["sites.1.gate"] = torch.zeros((), dtype=torch.float16)


def no_number(tensors):
    tensors["sites.1.gate"] = torch.tensor(float("nan"))


@pytest.mark.parametrize("change", [without_one, with_another, of_another_shape, of_another_kind, no_number])
def test_a_foreign_adapter_is_named_with_its_tensor(path, change):
    tensors = load_file(path / ADAPTER)
    change(tensors)
    save_file(tensors, path / ADAPTER)
    with pytest.raises(ModelError, match=r"adapters/code\.safetensors: sites\.[01]\.gate"):
        read_student(path)


def test_another_capabilitys_file_does_not_fit(path):
    shutil.copy(path / "adapters/reasoning.safetensors", path / ADAPTER)
    with pytest.raises(ModelError, match=r"adapters/code\.safetensors: .* does not fit"):
        read_student(path)


@pytest.mark.parametrize("name", ["adapters/chess.safetensors", "towers/smell.safetensors"])
def test_a_file_that_no_plan_knows_is_named(path, name):
    shutil.copy(path / ADAPTER, path / name)
    with pytest.raises(ModelError, match=name.split("/")[1].split(".")[0]):
        read_student(path)


def test_what_a_killed_write_adapter_left_does_not_matter(student, path, ids):
    (path / "adapters" / ".code.safetensors.tmp").write_bytes(b"half of it")
    assert same(student, read_student(path), ids)


def test_a_router_of_another_student_is_named(student, path):
    from nexus_core.student.router import save_router

    save_router(SparseIntentRouter(RouterArch(("reasoning",), 64, 4, 1), seed=3), path / "router.safetensors")
    with pytest.raises(DataError, match="router"):
        read_student(path)


def test_a_backbone_of_another_student_is_named(path, tmp_path):
    shutil.rmtree(path / "backbone")
    tiny.save_causal_lm(path / "backbone", num_hidden_layers=3, initializer_range=0.2)
    with pytest.raises(DataError, match="num_hidden_layers 3, and 2 was planned"):
        read_student(path)
