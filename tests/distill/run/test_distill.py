"""`nexus distill`, from the signals of real teachers to a student on the disk: what it writes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from nexus_core.cli import context
from nexus_core.distill.batches import Batches
from nexus_core.distill.vocabulary import read_vocabulary
from nexus_core.student.answer import StudentAnswerer
from nexus_core.student.files import read_student
from nexus_core.types import GenerateOptions, Sample

STEPS = ("--steps", 3)


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def events(run: Path, name: str) -> list[dict]:
    rows = (run / "distill" / name / "steps.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, rows) if "event" in row]


# --- what comes out -----------------------------------------------------------------------------------------------


def test_a_student_comes_out_that_answers(taught):
    student = read_student(taught / "student")
    assert list(student.model.adapters) == ["reasoning", "tools"]
    assert student.router is not None
    assert {p.dtype for p in student.model.parameters()} == {torch.float32}
    for name in student.model.adapters:
        answer = StudentAnswerer(student.model, student.tokenizer, name)
        assert isinstance(answer.generate([Sample("1", "What is 2 + 3?", "5")], GenerateOptions(4))[0], str)
    assert [f.name for f in taught.iterdir() if f.name.startswith(".")] == [".lock"]


def test_the_joint_phase_comes_first_and_those_that_lack_go_on(taught):
    joint = json.loads((taught / "distill/joint/summary.json").read_text())
    assert (joint["capability"], joint["steps"]) == ("joint", 3)
    assert set(joint["measured"]["parts"]) == {"reasoning", "tools"}
    for name in ("reasoning", "tools"):
        alone = json.loads((taught / "distill" / name / "summary.json").read_text())
        assert (alone["capability"], alone["steps"]) == (name, 3)
        assert (taught / "distill" / name / "rows.safetensors").exists()
    assert sorted(p.name for p in (taught / "checkpoints/nexus_student").iterdir()) == ["adapters", "joint"]


def test_the_summary_is_strict_and_the_worst_comes_first(taught, summary_of):
    found = summary_of(taught)
    assert found["met"] is False
    reached = [entry["reached"] for entry in found["capabilities"].values()]
    assert reached == sorted(reached)
    for name, entry in found["capabilities"].items():
        assert [training["capability"] for training in entry["trainings"]] == ["joint", name]
        assert (entry["n"], entry["full"], entry["met"], entry["teacher"]) == (4, True, False, 0.9)
        assert entry["goal"] == pytest.approx(0.97 * 0.9)
        assert entry["retention"] == pytest.approx(entry["score"] / 0.9)
    assert found["parameters"]["backbone"] == sum(
        p.numel() for n, p in read_student(taught / "student").model.named_parameters() if not n.startswith("adapters.")
    )
    assert set(found["seconds"]) == {"rows", "teaching", "router"}
    assert found["router"]["classes"] == ["reasoning", "tools"]
    assert found["router"]["n"] == 12


@pytest.mark.slow
def test_twice_the_same_student(taught, taught_once, nexus, bytes_of):
    """Not a byte depends on the moment, on what was there, or on the number of threads."""
    (taught / "student/adapters/tools.safetensors").write_bytes(b"damaged")
    ended = nexus("distill", "--run", taught, *STEPS, "--workers", 3)
    assert ended.status == 3
    assert bytes_of(taught / "student") == bytes_of(taught_once / "student")
    assert "joint: step 3, score" in ended.err
    assert "capability" in ended.out
    assert "missed (goal 0.873)" in ended.out


@pytest.mark.slow
def test_a_met_contract_is_status_zero(planned, nexus, monkeypatch, summary_of):
    """One that asks for nothing: three steps teach nothing."""
    registry = context.open_registry()
    rows = {
        name: replace(row, contract={**row.contract, "retain_fraction": None, "minimum": 0.0})
        for name, row in registry.capabilities.items()
    }
    monkeypatch.setattr(context, "open_registry", lambda *_: replace(registry, capabilities=rows))
    ended = nexus("distill", "--run", planned, *STEPS)
    assert (ended.status, "missed" in ended.err) == (0, False)
    assert summary_of(planned)["met"] is True
    assert ended.out.count("  met\n") == 2


# --- one adapter --------------------------------------------------------------------------------------------------


def test_one_adapter_is_taught_and_no_other_byte_changes(taught, nexus, summary_of, bytes_of):
    student, checkpoints, before = (
        bytes_of(taught / "student"),
        taught / "checkpoints/nexus_student",
        summary_of(taught),
    )
    others = bytes_of(checkpoints / "joint"), bytes_of(checkpoints / "adapters/reasoning")
    journals = bytes_of(taught / "distill/joint"), bytes_of(taught / "distill/reasoning")
    ended = nexus("distill", "--run", taught, "--adapter", "tools", *STEPS)
    assert ended.status == 3
    assert changed(student, bytes_of(taught / "student")) == {"adapters/tools.safetensors"}
    assert others == (bytes_of(checkpoints / "joint"), bytes_of(checkpoints / "adapters/reasoning"))
    assert journals == (bytes_of(taught / "distill/joint"), bytes_of(taught / "distill/reasoning"))
    after = summary_of(taught)
    assert after["capabilities"]["reasoning"] == before["capabilities"]["reasoning"]
    assert after["router"] == before["router"]
    assert [t["capability"] for t in after["capabilities"]["tools"]["trainings"]] == ["tools"]
    reached = [entry["reached"] for entry in after["capabilities"].values()]
    assert reached == sorted(reached)


@pytest.mark.slow
def test_an_adapter_starts_anew(taught, nexus, bytes_of):
    """Not from what it was: the same command twice gives the same bytes, and what it was does not matter."""
    nexus("distill", "--run", taught, "--adapter", "tools", *STEPS)
    first = bytes_of(taught / "student")
    nexus("distill", "--run", taught, "--adapter", "tools", *STEPS)
    assert bytes_of(taught / "student") == first


def test_the_students_tokenizer_is_the_backbones(taught, planned_once):
    from nexus_core.registry.paths import resolve_path

    before = read_vocabulary(_tokenizer(resolve_path(context.open_registry().teacher("zoo-backbone")).path))
    assert read_vocabulary(read_student(taught / "student").tokenizer).sha256 == before.sha256


def _tokenizer(path):
    from nexus_core.hf.tokenizer import load_tokenizer

    return load_tokenizer(path)


# --- stopped, resumed, failed -------------------------------------------------------------------------------------


class Signals:
    """Batches of which one, the first time that it is asked for, brings SIGINT."""

    def __init__(self, position):
        self.position, self.left, self.at = position, 1, Batches.at

    def __call__(self, batches, position):
        if position == self.position and self.left:
            self.left -= 1
            os.kill(os.getpid(), signal.SIGINT)
        return self.at(batches, position)


@pytest.mark.slow
def test_interrupted_and_resumed_it_ends_with_the_same_bytes(planned, taught_once, nexus, monkeypatch, bytes_of):
    """Once in the joint phase, once in an adapter's own; a student that was there before is still there."""
    shutil.copytree(taught_once / "student", planned / "student")
    (planned / "student/adapters/tools.safetensors").unlink()
    before = bytes_of(planned / "student")
    interrupt = Signals(1)
    monkeypatch.setattr(Batches, "at", lambda self, position: interrupt(self, position))
    ended = nexus("distill", "--run", planned, *STEPS)
    assert ended.status == 130
    assert "--resume goes on" in ended.err
    assert bytes_of(planned / "student") == before
    assert not (planned / "distill/summary.json").exists()
    interrupt.left, interrupt.position = 1, 5  # of an adapter's own: the joint phase has three batches of each
    ended = nexus("distill", "--run", planned, *STEPS, "--resume")
    assert ended.status == 130
    assert (planned / "distill/joint/summary.json").exists()
    assert bytes_of(planned / "student") == before
    assert nexus("distill", "--run", planned, *STEPS, "--resume").status == 3
    assert bytes_of(planned / "student") == bytes_of(taught_once / "student")
    steps = [json.loads(row) for row in (planned / "distill/joint/steps.jsonl").read_text().splitlines()]
    assert [row["step"] for row in steps if "event" not in row] == [1, 2, 3]


def test_a_finished_run_is_only_read(taught, nexus, monkeypatch, summary_of, bytes_of):
    """Measured again, and told: a missed contract is status 3, and says what to do."""

    def never(*_):
        raise AssertionError("a batch was asked for")

    monkeypatch.setattr(Batches, "at", never)
    student, checkpoints = bytes_of(taught / "student"), bytes_of(taught / "checkpoints")
    ended = nexus("distill", "--run", taught, *STEPS, "--resume", "--json")
    assert ended.status == 3
    assert bytes_of(taught / "student") == student
    assert bytes_of(taught / "checkpoints") == checkpoints
    assert json.loads(ended.out) == summary_of(taught)
    assert f"written to {taught / 'student'}" in ended.err
    assert "a contract was missed: plan more capacity, collect more signals, or allow more --steps" in ended.err


def test_resumed_with_other_settings_it_says_so(taught, nexus, bytes_of):
    student = bytes_of(taught / "student")
    ended = nexus("distill", "--run", taught, "--steps", 2, "--resume")
    assert ended.status == 1
    assert "is of a run with other settings or other data" in ended.err
    assert bytes_of(taught / "student") == student


def test_a_training_that_fails_leaves_the_student_and_names_the_adapter(
    taught, nexus, monkeypatch, summary_of, bytes_of
):
    at = Batches.at

    def poisoned(self, position):
        batch = at(self, position)
        wrong = {b: (torch.full_like(values, float("nan")), has) for b, (values, has) in batch.anchors.items()}
        return replace(batch, anchors=wrong)

    monkeypatch.setattr(Batches, "at", poisoned)
    student, summary = bytes_of(taught / "student"), summary_of(taught)
    ended = nexus("distill", "--run", taught, "--adapter", "tools", *STEPS)
    assert ended.status == 1
    assert "training went back 2 times" in ended.err
    assert "while teaching tools" in ended.err
    assert "Traceback" not in ended.err
    assert [row["event"] for row in events(taught, "tools")][-1] == "failed"
    assert bytes_of(taught / "student") == student
    assert summary_of(taught) == summary


def test_an_adapter_that_cannot_be_taught_further_stays_as_it_was(planned, nexus, summary_of):
    from nexus_core.distill import settings as teaching

    def wild(preset):
        found = read(preset)
        joint, alone = found.phases
        return replace(found, phases=(joint, replace(alone, adapter_rate=1e4)))

    read = teaching.read_teaching
    with pytest.MonkeyPatch.context() as patch:  # ends before that of this folder, whose value it would else bring back
        patch.setattr(teaching, "read_teaching", wild)
        ended = nexus("distill", "--run", planned, *STEPS)
    assert ended.status == 3, ended.err
    assert ended.err.count("it stays as it was") == 2
    for entry in summary_of(planned)["capabilities"].values():
        assert [training["reason"] for training in entry["trainings"]] == ["ceiling", "failed"]
        assert "went back 2 times" in entry["trainings"][1]["error"]
    joint = load_file(next((planned / "checkpoints/nexus_student/joint").glob("00000003/weights.safetensors")))
    for name in ("reasoning", "tools"):
        kept = load_file(planned / f"student/adapters/{name}.safetensors")
        assert all(torch.equal(tensor, joint[f"adapters.{name}.{key}"]) for key, tensor in kept.items())
