"""A study, end to end, on a student of seconds: what it writes, what it does not do twice, and what it refuses."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nexus_core.distill import batches as batches_module
from nexus_core.distill.loop import Loop
from nexus_core.errors import DataError, UsageError

SCRIPT = Path(__file__).with_name("tiny_study.py")
UNITS = ["full-seed1", "full-seed2", "no_teacher-seed1", "no_teacher-seed2"]


@pytest.fixture(scope="module")
def done(tiny, tmp_path_factory):
    """(run, what the study returned) of two arms and two seeds."""
    run = tmp_path_factory.mktemp("study")
    return run, tiny.study(run).run()


def numbers(folder):
    """What a unit came to, without times and memory."""
    found = json.loads((folder / "summary.json").read_text())
    for part in found["capabilities"].values():
        del part["tokens_per_second"]
    return {name: value for name, value in found.items() if name not in ("seconds", "memory_mb")}


def test_every_unit_leaves_its_journal_its_student_and_its_summary(done):
    run, _ = done
    folders = sorted(path for path in (run / "study").iterdir() if path.is_dir())
    assert [path.name for path in folders] == UNITS
    for folder in folders:
        assert {path.name for path in folder.iterdir()} == {"distill", "student", "summary.json", "training.json"}
        for training, steps in (("joint", 10), ("letters", 4), ("turns", 4)):
            lines = (folder / "distill" / training / "steps.jsonl").read_text().splitlines()
            rows = [json.loads(line) for line in lines]
            assert [row["step"] for row in rows if "event" not in row] == list(range(1, steps + 1))
            assert not [row for row in rows if row.get("event") == "evaluation"], "nothing is chosen by a score"
        summary = numbers(folder)
        assert summary["steps"] == 18
        assert summary["failed"] is None
        assert {name: len(part["scores"]) for name, part in summary["capabilities"].items()} == {
            "letters": 32,
            "turns": 32,
        }


def test_the_document_holds_what_was_asked(done):
    run, found = done
    assert json.loads((run / "study" / "study.json").read_text()) == json.loads(json.dumps(found))
    assert list(found["arms"]) == ["no_teacher", "full"]
    full = found["arms"]["full"]
    assert set(full["seeds"]) == {"1", "2"}
    for name, teacher in found["teachers"].items():
        assert teacher["score"] == pytest.approx(14 / 16)
        scores = [full["seeds"][seed]["capabilities"][name]["score"] for seed in "12"]
        assert full["score"][name]["value"] == pytest.approx(np.mean(scores))
        assert full["retained"][name]["value"] == pytest.approx(np.mean(scores) / teacher["score"])
    assert full["worst"] == min(full["retained"], key=lambda name: full["retained"][name]["value"])
    for cost in ("tokens_per_second", "memory_mb", "bytes", "steps", "seconds", "anchor_error"):
        assert full[cost] > 0
    pairs = {(row["arm"], row["against"], row["capability"]) for row in found["comparisons"]}
    assert pairs == {("full", "no_teacher", name) for name in ("letters", "turns", "all")}
    assert found["verdict"].startswith("no verdict: not all units of logits_only")


def test_the_arms_differ_in_what_they_learn_from_and_in_nothing_else(done):
    run, found = done
    first = {}
    for arm in found["arms"]:
        lines = (run / "study" / f"{arm}-seed1" / "distill" / "joint" / "steps.jsonl").read_text().splitlines()
        first[arm] = json.loads(lines[0])
    assert first["full"]["position"] == first["no_teacher"]["position"]
    assert "anchor" in first["full"] and "attention" in first["full"]
    assert "anchor" not in first["no_teacher"] and "attention" not in first["no_teacher"]
    assert first["full"]["kl"] > 0 and first["no_teacher"]["kl"] == 0
    anchored, free = (found["arms"][arm]["anchor_error"] for arm in ("full", "no_teacher"))
    assert anchored < free
    assert len({json.loads((run / "study" / unit / "summary.json").read_text())["bytes"] for unit in UNITS}) == 1


def test_all_arms_see_the_same_prompts_in_the_same_order(tiny, tmp_path, monkeypatch):
    subject = tiny.subject()
    held = {row.digest for material in subject.materials.values() for row in material.held}
    collate, seen = batches_module.collate, {}

    def recording(rows, *rest, **more):
        if taught := [row.digest for row in rows if row.digest not in held]:
            seen.setdefault(arm, []).append(taught)
        return collate(rows, *rest, **more)

    monkeypatch.setattr(batches_module, "collate", recording)
    for arm in ("no_teacher", "logits_only", "no_anchor", "full"):
        found = tiny.study(tmp_path, arms=[arm], seeds=1, subject=subject).run()
        assert found["arms"][arm]["seeds"]["1"]["lost"] == 0
    assert seen["no_teacher"] == seen["logits_only"] == seen["no_anchor"] == seen["full"]
    assert len(seen["full"]) >= 10 + 2 * 4


def test_reference_answers_stand_in_for_the_teachers_row_by_row(tiny):
    subject = tiny.subject()
    for name, gold in subject.gold().items():
        rows = subject.materials[name].rows
        assert [row.digest for row in gold.rows] == [row.digest for row in rows]
        assert gold.rows[5] is not rows[5] and len({row.digest for row in rows}) == len(rows) - 1
        assert all(np.array_equal(one.prompt_ids, two.prompt_ids) for one, two in zip(gold.rows, rows, strict=True))
        assert {len(row.answer_ids) for row in gold.rows} == {2}
        assert {len(row.answer_ids) for row in rows} == {2, 3}
        assert not any(row.kl.has.any() or row.anchors for row in gold.rows)


def test_prompts_of_another_seed_are_not_taken_for_gold(tiny):
    class Short(tiny.Table):
        def samples(self, request):
            return itertools.islice(super().samples(request), 50)

    subject = tiny.subject()
    object.__setattr__(subject.materials["letters"], "metric", Short("letters"))
    with pytest.raises(DataError, match=r"letters: .* prompts of the signals are not in the train split"):
        subject.gold()


def test_what_is_finished_is_not_done_again(tiny, done):
    run, before = done
    files = {path: path.read_bytes() for path in sorted(run.rglob("summary.json"))}
    said, asked = [], []

    def load():
        asked.append(1)

    subject = tiny.subject(
        teachers={name: tiny.TeacherOf("made-up", "0" * 64, load) for name in tiny.TABLES},
    )
    assert tiny.study(run, said=said, subject=subject).run() == before
    assert said == [] and asked == []
    assert {path: path.read_bytes() for path in sorted(run.rglob("summary.json"))} == files


def test_more_samples_are_asked_of_the_same_students(tiny, done, tmp_path):
    run, _ = done
    shutil.copytree(run, tmp_path / "copy")
    journals = {path: path.read_bytes() for path in sorted((tmp_path / "copy").rglob("steps.jsonl"))}
    found = tiny.study(tmp_path / "copy", arms=["full"], seeds=1, samples=8).run()
    assert found["arms"]["full"]["seeds"]["1"]["capabilities"]["letters"]["n"] == 8
    assert found["teachers"]["letters"]["n"] == 8
    assert {path: path.read_bytes() for path in journals} == journals


def test_a_study_with_other_settings_is_not_mixed_in(tiny, done):
    run, _ = done
    with pytest.raises(DataError, match="no_teacher-seed1 holds a training with other settings"):
        tiny.study(run, steps=9).run()
    subject = tiny.subject()
    subject.materials["turns"].rows[3].answer_ids[0] += 1
    with pytest.raises(DataError, match=r"full-seed1 holds a training with .* other signals"):
        tiny.study(run, arms=["full"], subject=subject).run()


def test_two_processes_do_not_do_the_same_unit(tiny, tmp_path):
    from filelock import FileLock

    (tmp_path / "study").mkdir()
    with FileLock(tmp_path / "study" / ".full-seed1.lock"), pytest.raises(UsageError, match="another process"):
        tiny.study(tmp_path, arms=["full"]).run()


def test_an_interrupted_study_ends_as_an_undisturbed_one(tiny, done, tmp_path, monkeypatch):
    advance, made = Loop.advance, []

    def failing(loop):
        made.append(1)
        if len(made) in (7, 20, 44):
            raise KeyboardInterrupt
        advance(loop)

    monkeypatch.setattr(Loop, "advance", failing)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            tiny.study(tmp_path).run()
    tiny.study(tmp_path).run()
    for unit in UNITS:
        assert numbers(tmp_path / "study" / unit) == numbers(done[0] / "study" / unit)


def test_without_its_teacher_nothing_is_said_of_what_is_retained(tiny, tmp_path):
    teachers = {name: tiny.TeacherOf("made-up", "0" * 64, lambda: None) for name in tiny.TABLES}
    found = tiny.study(tmp_path, arms=["full"], seeds=1, subject=tiny.subject(teachers=teachers)).run()
    assert found["arms"]["full"]["retained"] == {} and found["teachers"] == {}
    assert any("letters, turns: the teacher is not on this machine" in note for note in found["notes"])


def test_an_arm_that_fails_is_said_to_and_the_others_go_on(tiny, tmp_path):
    subject = tiny.subject()
    for row in subject.materials["letters"].rows:
        row.kl.log_probs[:] = np.nan
    found = tiny.study(tmp_path, arms=["no_teacher", "logits_only"], seeds=1, subject=subject).run()
    assert "score" in found["arms"]["no_teacher"] and "score" not in found["arms"]["logits_only"]
    assert "not finite" in found["arms"]["logits_only"]["seeds"]["1"]["failed"]
    assert any(note.startswith("logits_only, seed 1 failed") for note in found["notes"])
    assert found["comparisons"] == [] and found["verdict"].startswith("no verdict")


def test_a_damaged_file_is_named(tiny, done, tmp_path):
    shutil.copytree(done[0], tmp_path / "copy")
    path = tmp_path / "copy" / "study" / "full-seed2" / "summary.json"
    path.write_text(path.read_text()[:50])
    with pytest.raises(DataError, match=r"full-seed2/summary\.json is no JSON"):
        tiny.study(tmp_path / "copy").run()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_moments_it_ends_the_same(tmp_path, seed):
    command = [sys.executable, str(SCRIPT), str(tmp_path), "5", str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout) >= 3, "most kills found the study alive"
    for unit in UNITS:
        killed, whole = (tmp_path / name / "study" / unit for name in ("killed", "undisturbed"))
        assert numbers(killed) == numbers(whole)
        assert not list(killed.rglob("checkpoints"))
