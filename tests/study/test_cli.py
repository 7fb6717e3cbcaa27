"""`nexus study`: what it prints of a study, and everything that stops it before it costs anything."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from nexus_core.cli import study as command
from nexus_core.cli.main import cli
from nexus_core.errors import DataError, NexusError, UsageError
from nexus_core.student.arch import write_arch


def run(*arguments: str):
    return CliRunner().invoke(cli, ["study", *arguments], catch_exceptions=False)


def test_a_misspelt_arm_is_guessed(tmp_path):
    with pytest.raises(UsageError, match='no arm "logit_only"; did you mean "logits_only"'):
        run("--run", str(tmp_path), "--arm", "full", "--arm", "logit_only")


def test_a_run_without_a_plan_says_what_makes_one(tmp_path):
    with pytest.raises(NexusError, match=r"student_arch\.json") as error:
        run("--run", str(tmp_path))
    assert "nexus architect" in error.value.hint


def test_a_run_without_profiles_or_signals_says_what_makes_them(tmp_path, tiny):
    planned = tiny.arch()
    adapter = replace(planned.adapters[0], teacher="zoo-backbone")  # has a row, and no profile
    write_arch(tmp_path / "student_arch.json", replace(planned, adapters=(adapter,)))
    tiny.tokenizer().save_pretrained(tmp_path / "words")
    with pytest.raises(NexusError) as error:
        run("--run", str(tmp_path), "--tokenizer", str(tmp_path / "words"))
    assert "nexus profile" in f"{error.value.message} {error.value.hint}"
    assert not (tmp_path / "study").exists()


def test_a_capability_that_the_student_does_not_have_is_guessed(tmp_path, tiny):
    write_arch(tmp_path / "student_arch.json", tiny.arch())
    with pytest.raises(NexusError, match="lettres") as error:
        run("--run", str(tmp_path), "--capability", "lettres")
    assert "letters" in f"{error.value.message} {error.value.hint}"


def test_a_device_that_does_not_exist_stops_it_at_once(tmp_path, tiny):
    write_arch(tmp_path / "student_arch.json", tiny.arch())
    with pytest.raises(UsageError, match="abacus"):
        run("--run", str(tmp_path), "--device", "abacus")


@pytest.fixture
def taught(tmp_path, tiny, monkeypatch):
    """The command on the tiny study's student: what it would gather from a run is given to it."""
    monkeypatch.setattr(command, "_subject", lambda order, capabilities, tokenizer: tiny.subject())
    return ["--run", str(tmp_path), "--seeds", "1", "--samples", "16", "--workers", "1", "--steps", "14"]


def test_it_prints_tables_and_ends_with_the_verdict(taught, tmp_path):
    pytest.importorskip("matplotlib")
    result = run(*taught, "--plot")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == [
        *["arm", "seed", "letters", "turns", "worst", "anchor", "tokens/s"],
        *["peak", "MB", "student", "MB", "steps", "seconds"],
    ]
    assert lines[-2].startswith(("full wins: ", "full does not win: "))
    assert lines[-1] == f"drawn to {tmp_path / 'study' / 'curves.png'}"
    assert Path(tmp_path / "study" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "full-seed1: the method, 14 steps" in result.stderr

    again = run(*taught, "--json")
    assert json.loads(again.stdout) == json.loads((tmp_path / "study" / "study.json").read_text())
    assert again.stderr == ""
    with pytest.raises(DataError, match="holds a training with other settings"):
        run(*taught[:-1], "15")
