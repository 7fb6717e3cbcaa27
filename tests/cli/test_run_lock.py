"""One command at a time writes into a run; whoever comes second is told who is first."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner

from nexus_core.cli.main import cli
from nexus_core.errors import DataError, NexusError, StateError
from nexus_core.lock import ProcessLock

HOLDER = """
import sys
from pathlib import Path
from nexus_core.lock import ProcessLock
with ProcessLock(Path(sys.argv[1]) / ".lock", "the run", "nexus distill"):
    print("held", flush=True)
    sys.stdin.read()
"""
COMMANDS = {
    "profile": ("--teacher", "zoo-code", "--capability", "code"),
    "architect": (),
    "distill": (),
    "study": (),
    "verify": (),
}


def call(name, run, *more):
    return CliRunner().invoke(cli, [name, *COMMANDS[name], "--run", str(run), *more], catch_exceptions=False)


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_second_command_is_told_who_is_at_work(holder, tmp_path, name):
    before = {path.name for path in tmp_path.iterdir()}
    with pytest.raises(StateError) as error:
        call(name, tmp_path)
    assert error.value.message == f"the run {tmp_path} is in use by process {holder.pid} (nexus distill)"
    assert f"kill {holder.pid}" in error.value.hint
    assert {path.name for path in tmp_path.iterdir()} == before


def test_another_run_is_free(holder, tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match=r"student_arch\.json is not there"):
        call("distill", tmp_path / "other")


def test_a_killed_command_holds_nothing(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with pytest.raises(DataError, match=r"student_arch\.json is not there"):
        call("distill", tmp_path)


@pytest.mark.parametrize("name", ["architect", "distill", "study"])
def test_a_command_that_fails_lets_go_and_one_without_a_run_makes_none(tmp_path, name):
    for _ in range(2):
        with pytest.raises(NexusError) as error:
            call(name, tmp_path)
        assert "in use" not in error.value.message
    with pytest.raises(NexusError):
        call(name, tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()


def test_the_lock_is_held_for_as_long_as_the_command_works(tmp_path, monkeypatch):
    from nexus_core.cli import distill

    def look(order, steps, tokenizer):
        with pytest.raises(StateError, match=r"is in use by process \d+ \(nexus distill\)$"), second:
            raise AssertionError("two hold one run")
        raise NexusError("seen")

    second = ProcessLock(tmp_path / ".lock", "the run", "nexus architect")
    monkeypatch.setattr(distill, "_distill", look)
    with pytest.raises(NexusError, match="seen"):
        call("distill", tmp_path)
    with second:
        assert second.held


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"not a number", b"12x nexus distill"])
def test_a_holder_that_did_not_say_who_it_is(tmp_path, content):
    first, second = (ProcessLock(tmp_path / ".lock", "the run") for _ in range(2))
    with first:
        (tmp_path / ".lock").write_bytes(content)
        with pytest.raises(StateError, match=r"is in use by another process$"), second:
            raise AssertionError("two hold one run")
