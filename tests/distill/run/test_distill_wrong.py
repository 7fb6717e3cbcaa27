"""What must stop `nexus distill`, and what it says then."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch

from nexus_core.cli import context

STEPS = ("--steps", 3)


def test_before_the_architect_there_is_nothing_to_teach(tmp_path, nexus):
    ended = nexus("distill", "--run", tmp_path / "nothing")
    assert ended.status == 1
    assert "student_arch.json is not there" in ended.err
    assert "run `nexus architect` first" in ended.err
    assert not (tmp_path / "nothing").exists()


def test_without_signals_it_says_which_are_missing(planned, nexus):
    shutil.rmtree(planned / "signals")
    ended = nexus("distill", "--run", planned)
    assert ended.status == 1
    assert f"{planned / 'signals'} has no answers of zoo-reasoning/reasoning" in ended.err
    assert "run `nexus profile` first" in ended.err


def test_without_profiles_it_says_which_are_missing(planned, nexus):
    shutil.rmtree(planned / "niwt_stage2_output")
    ended = nexus("distill", "--run", planned)
    assert ended.status == 1
    assert "niwt_stage2_output" in ended.err
    assert "nexus profile" in ended.err


def test_a_file_in_the_way_is_named(planned, nexus):
    (planned / "distill").mkdir(exist_ok=True)
    (planned / "distill/joint").write_text("in the way")
    ended = nexus("distill", "--run", planned, *STEPS)
    assert ended.status == 1 and f"error: {planned / 'distill/joint'} cannot be written: File exists" in ended.err
    assert (planned / "distill/joint").read_text() == "in the way"


def test_what_fails_before_training_forgets_nothing(taught, nexus, bytes_of):
    shutil.rmtree(taught / "signals")
    checkpoints, journals = bytes_of(taught / "checkpoints"), bytes_of(taught / "distill")
    assert nexus("distill", "--run", taught, *STEPS).status == 1
    assert bytes_of(taught / "checkpoints") == checkpoints
    assert bytes_of(taught / "distill") == journals


def test_an_unknown_adapter_is_guessed(taught, nexus):
    ended = nexus("distill", "--run", taught, "--adapter", "reasonin")
    assert ended.status == 1
    assert 'no adapter for "reasonin"; did you mean "reasoning"?' in ended.err
    assert "planned are: reasoning, tools" in ended.err


def test_one_adapter_needs_a_student(planned, nexus):
    ended = nexus("distill", "--run", planned, "--adapter", "tools")
    assert ended.status == 1
    assert f"there is no student in {planned / 'student'}" in ended.err
    assert "run `nexus distill` without --adapter first" in ended.err


def test_one_adapter_needs_the_student_of_this_plan(taught, nexus, bytes_of):
    edit(taught / "student_arch.json", lambda arch: arch["adapters"][1].update(delta_rank=3))
    student = bytes_of(taught / "student")
    ended = nexus("distill", "--run", taught, "--adapter", "tools")
    assert ended.status == 1
    assert "was made by another plan" in ended.err
    assert bytes_of(taught / "student") == student


def edit(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_reasons_are_no_part_of_the_plan(taught, nexus):
    edit(taught / "student_arch.json", lambda arch: arch.update(decisions=[]))
    assert nexus("distill", "--run", taught, "--adapter", "tools", "--steps", 1).status == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a["backbone"].update(num_hidden_layers=7), "num_hidden_layers 3, and 7 was planned"),
        (lambda a: a.update(backbone_source="zoo-backbon"), 'no backbone "zoo-backbon"'),
        (lambda a: a.update(backbone_source="zoo-tools"), "never starts from a teacher's weights"),
        (lambda a: a.update(preset="tinny"), 'no preset "tinny" in presets.yaml; did you mean "tiny"'),
        (lambda a: a["adapters"][0].update(capability="singing"), "singing"),
        (lambda a: a["adapters"][0].update(teacher="zoo-singing"), "zoo-singing"),
        (lambda a: a["adapters"][0]["sites"][0].update(teacher_block="model.layers.3"), "model.layers.3"),
        (lambda a: a["adapters"][0]["sites"][0].update(block=9), "there is no block 9"),
        (lambda a: a["adapters"][0].update(tower="smell"), "smell"),
        (lambda a: a.pop("router"), "the key 'router' is missing"),
    ],
)
def test_a_plan_that_does_not_fit_is_named(planned, nexus, change, message):
    edit(planned / "student_arch.json", change)
    ended = nexus("distill", "--run", planned)
    assert ended.status in (1, 2)
    assert message in ended.err
    assert "hint:" in ended.err
    assert "internal error" not in ended.err


def with_teacher(monkeypatch, name, **changes):
    registry = context.open_registry()
    row = replace(registry.teacher(name), **changes)
    monkeypatch.setattr(
        context, "open_registry", lambda *_: replace(registry, teachers={**registry.teachers, name: row})
    )


@pytest.mark.parametrize("licence", ["unknown: check before profiling", "forbidden: research only"])
def test_a_licence_that_does_not_allow_it_stops_it(planned, nexus, monkeypatch, licence):
    with_teacher(monkeypatch, "zoo-tools", license=licence)
    ended = nexus("distill", "--run", planned)
    assert ended.status == 1
    assert f'teacher zoo-tools is not distilled: its licence is "{licence}"' in ended.err
    assert "read the licence" in ended.err
    assert not (planned / "checkpoints").exists()


def test_a_teachers_tokenizer_that_is_absent_is_named(planned, nexus, monkeypatch, tmp_path):
    with_teacher(monkeypatch, "zoo-tools", path=str(tmp_path / "gone"))
    ended = nexus("distill", "--run", planned)
    assert ended.status == 1
    assert f"the tokenizer of zoo-tools is absent: {tmp_path / 'gone'} does not exist" in ended.err


@pytest.mark.slow
def test_a_teachers_weights_may_be_absent(planned, nexus, monkeypatch, tmp_path):
    """Its tokenizer files alone are enough; one of another teacher is not."""
    from nexus_core.registry.paths import resolve_path

    here = resolve_path(context.open_registry().teacher("zoo-tools")).path
    (tmp_path / "files").mkdir()
    for file in here.glob("*token*"):
        shutil.copy(file, tmp_path / "files")
    with_teacher(monkeypatch, "zoo-tools", path=str(tmp_path / "files"))
    assert nexus("distill", "--run", planned, "--steps", 1).status == 3
    for file in here.with_name("reasoning").glob("*token*"):
        shutil.copy(file, tmp_path / "files")
    ended = nexus("distill", "--run", planned, "--steps", 1)
    assert ended.status == 1
    assert "zoo-tools: its tokenizer is not the one it was profiled with" in ended.err


def test_a_random_backbone_needs_a_tokenizer(planned, nexus, tmp_path):
    edit(planned / "student_arch.json", lambda arch: arch.update(backbone_source="random"))
    ended = nexus("distill", "--run", planned)
    assert ended.status == 2
    assert "a backbone with random weights has no tokenizer" in ended.err
    assert "--tokenizer PATH" in ended.err
    assert nexus("distill", "--run", planned, "--tokenizer", tmp_path / "gone").status == 2
    (tmp_path / "empty").mkdir()
    ended = nexus("distill", "--run", planned, "--tokenizer", tmp_path / "empty")
    assert ended.status == 1
    assert "its tokenizer cannot be loaded" in ended.err


@pytest.mark.slow
def test_a_random_backbone_is_taught_with_the_tokenizer_that_is_named(planned, nexus):
    from nexus_core.registry.paths import resolve_path

    weights = resolve_path(context.open_registry().teacher("zoo-backbone")).path.parent
    edit(planned / "student_arch.json", lambda arch: arch.update(backbone_source="random"))
    assert nexus("distill", "--run", planned, "--steps", 1, "--tokenizer", weights / "backbone").status == 3
    edit(planned / "student_arch.json", lambda arch: arch["backbone"].update(vocab_size=500))
    ended = nexus("distill", "--run", planned, "--tokenizer", weights / "backbone")
    assert ended.status == 1
    assert "1280 tokens, and the backbone 500" in ended.err


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_a_device_that_is_not_here_is_a_clear_error(planned, nexus, device):
    ended = nexus("distill", "--run", planned, "--device", device)
    assert ended.status == 2
    assert f"the device {device} cannot be used" in ended.err
    assert "nexus doctor" in ended.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has one")
def test_a_gpu_that_is_not_here_is_a_clear_error(planned, nexus):
    ended = nexus("distill", "--run", planned, "--device", "cuda")
    assert ended.status == 2
    assert "the device cuda cannot be used" in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("option", [("--steps", 0), ("--steps", "many"), ("--workers", -1)])
def test_numbers_out_of_range_are_wrong_usage(planned, nexus, option):
    ended = nexus("distill", "--run", planned, *option)
    assert ended.status == 2
    assert option[0] in ended.err


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_passed_over(taught, nexus):
    folder = taught / "checkpoints/nexus_student/joint"
    names = json.loads((folder / "index.json").read_text())["latest"]
    (folder / names[0] / "weights.safetensors").write_bytes(b"")
    ended = nexus("distill", "--run", taught, *STEPS, "--resume")
    assert ended.status == 3
    assert names[0] in ended.err
    assert "damaged" in ended.err
