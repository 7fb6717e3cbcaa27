"""`nexus pause` and `nexus resume` against real runs, and against everything that is no run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from click.testing import CliRunner

from nexus_core.cli.main import cli
from nexus_core.errors import NexusError
from nexus_core.lock import ProcessLock
from nexus_core.pipeline.remote import pause, resume

HOLDER = """
import fcntl, sys, time
lock = open(sys.argv[1], "r")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""

SOMEBODY_ELSE = """
import os
from pathlib import Path
from nexus_core.pipeline.remote import pause
os.setuid(65534)
pause(Path("run"), 1)
"""


def nexus(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False).output


def test_pause_and_resume_from_another_process(start, site):
    running = start("steps")
    pid = running.process.pid
    ended = site.nexus("pause", "--run", str(running.path))
    assert (ended.stdout, ended.returncode) == (f"process {pid} is paused by nexus pause\n", 0)
    assert nexus("pause", "--run", str(running.path)) == f"process {pid} was paused already\n"
    held = len(running.events())
    assert nexus("resume", "--run", str(running.path)) == f"process {pid} goes on\n"
    running.until("unit_progress", after=held)
    with pytest.raises(NexusError, match="is not paused") as error:
        resume(running.path, 5)
    assert "nexus pause" in error.value.hint


def test_the_run_that_the_state_names_is_meant(start, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NexusError, match=r"^there is no run runs/default$"):
        nexus("pause")
    (tmp_path / ".pipeline_state.json").write_text('{"schema_version": 1, "run": "run"}')
    start("waits")
    assert "is paused" in nexus("pause")
    assert "goes on" in nexus("resume")


def test_a_run_in_a_long_operation_answers_when_that_ends(start):
    running = start("operation")
    with pytest.raises(NexusError, match=r"was asked, and has not answered in 0\.05 s"):
        pause(running.path, 0.05)
    running.until("paused")
    assert "was paused already" in pause(running.path, 1)


def test_a_run_that_is_still_held_says_by_what(start, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "degrees").write_text("90")
    running = start("heat")
    running.until("paused")
    with pytest.raises(NexusError, match=r"is paused k10temp is at 90 C") as error:
        resume(running.path, 5)
    assert "by itself" in error.value.hint
    assert "by nexus pause" in pause(running.path, 5)
    assert "released, and still paused k10temp" in resume(running.path, 5)


def test_a_run_that_ends_meanwhile(start):
    running = start("orphan")
    child = running.child()
    killer = threading.Timer(0.3, running.signal, [signal.SIGKILL])
    killer.start()
    with pytest.raises(NexusError, match="has ended meanwhile"):
        pause(running.path, 10)
    killer.join()
    child.kill()
    running.process.wait()
    with pytest.raises(NexusError, match="nobody is at work in the run"):
        pause(running.path, 10)


def test_where_no_run_is_at_work(tmp_path):
    with pytest.raises(NexusError, match="there is no run"):
        pause(tmp_path / "nowhere", 1)
    with pytest.raises(NexusError, match="nobody is at work"):
        pause(tmp_path, 1)
    with ProcessLock(tmp_path / ".lock", "the run", "nexus run"):
        pass
    with pytest.raises(NexusError, match="nobody is at work") as error:
        pause(tmp_path, 1)
    assert error.value.hint == f"start it, or go on with it: nexus run --run {tmp_path}"


def test_another_command_is_not_signalled(tmp_path):
    wanted = rf"in use by process {os.getpid()} \(nexus distill\), which is no `nexus run`"
    with ProcessLock(tmp_path / ".lock", "the run", "nexus distill"), pytest.raises(NexusError, match=wanted):
        pause(tmp_path, 1)


@pytest.fixture
def held(tmp_path):
    """`held(text)`: the lock is really held, and says `text`, as an editor or a copied directory could leave it."""
    begun = []

    def hold(text):
        (tmp_path / ".lock").write_text(text)
        begun.append(
            subprocess.Popen(
                [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        assert begun[-1].stdout.readline() == b"held\n"
        return begun[-1]

    yield hold
    for process in begun:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("text", ["", "nexus run", "12x nexus run", "\x00", "-1 nexus run", "１２ nexus run"])
def test_a_lock_that_does_not_say_whose_it_is(tmp_path, held, text):
    held(text)
    with pytest.raises(NexusError, match=r"in use by .*, which is no `nexus run`|cannot be looked at"):
        pause(tmp_path, 1)


def test_a_lock_that_names_a_process_that_is_no_run(tmp_path, held):
    victim = subprocess.Popen(["sleep", "60"])
    try:
        held(f"{victim.pid} nexus run")
        with pytest.raises(NexusError, match=rf"process {victim.pid}, which .*\.lock names, is no `nexus run`"):
            pause(tmp_path, 1)
        time.sleep(0.05)
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()
    for number in (victim.pid, 1 << 70):
        (tmp_path / ".lock").write_text(f"{number} nexus run")
        with pytest.raises(NexusError, match="cannot be looked at"):
            pause(tmp_path, 1)


def test_a_run_that_is_only_starting_would_be_killed_by_the_signal(start, tmp_path):
    running = start("waits")
    events = running.path / "events.jsonl"
    lines = events.read_text().splitlines()
    events.write_text(lines[0].replace(f'"pid": {running.process.pid}', '"pid": 1') + "\n")
    for command in (pause, resume):
        with pytest.raises(NexusError, match="is only starting"):
            command(running.path, 1)
    events.unlink()
    with pytest.raises(NexusError, match="is only starting"):
        pause(running.path, 1)
    events.write_text(f"{lines[0]}\n" + '{"kind": "run_ended", "at": 1.0, "status": 0}\n')
    with pytest.raises(NexusError, match="has ended meanwhile"):
        pause(running.path, 1)
    assert running.process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be somebody else")
def test_a_run_of_another_user(start, tmp_path):
    running = start("waits")
    tmp_path.chmod(0o755)
    ended = subprocess.run([sys.executable, "-c", SOMEBODY_ELSE], cwd=tmp_path, capture_output=True, text=True)
    assert "belongs to another user" in ended.stderr
    assert running.process.poll() is None
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 143
