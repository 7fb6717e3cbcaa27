"""Pause and resume a run from another process: find it through RUN/.lock, be sure of it, signal it, wait for its word."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from nexus_core.errors import NexusError
from nexus_core.pipeline.events import EVENTS, Event, read_events
from nexus_core.pipeline.signals import BY_PERSON

TITLE = "nexus run"
POLL = 0.1  # seconds
LASTING = frozenset({"run_started", "run_ended", "paused", "resumed"})


@dataclass(frozen=True, slots=True)
class State:
    """What the events say of a run: `kind` is the last one that changed it, `told` how many there were."""

    kind: str
    reason: str
    pid: int
    told: int

    @property
    def by_person(self) -> bool:
        return self.kind == "paused" and BY_PERSON in self.reason


def pause(run: Path, patience: float) -> str:
    """Hold the run; returns in words what came of it, at most `patience` seconds later."""
    process, before = _find(run), _state(run)
    _must_listen(run, process, before)
    if before.by_person:
        return f"process {process.pid} was paused already"
    _send(process, signal.SIGUSR1)
    after = _wait(run, process, before, patience)
    if after.kind != "paused":
        raise _over(run)
    return f"process {process.pid} is paused {after.reason}"


def resume(run: Path, patience: float) -> str:
    """Let go of a run that `pause` holds; something else may still hold it."""
    process, before = _find(run), _state(run)
    _must_listen(run, process, before)
    if before.kind != "paused":
        raise NexusError(f"the run {run} is not paused (process {process.pid} is at work)", "pause it: nexus pause")
    if not before.by_person:
        raise NexusError(f"the run {run} is paused {before.reason}", "it goes on by itself")
    _send(process, signal.SIGUSR2)
    after = _wait(run, process, before, patience)
    if after.kind == "paused":
        return f"process {process.pid} is released, and still paused {after.reason}"
    return f"process {process.pid} goes on"


def _find(run: Path) -> psutil.Process:
    """The `nexus run` that holds the lock of this run, beyond doubt: a signal to another process would kill it."""
    lock = run / ".lock"
    if not run.is_dir():
        raise NexusError(f"there is no run {run}", "name its directory: --run DIR")
    if not _is_held(lock):
        raise NexusError(f"nobody is at work in the run {run}", f"start it, or go on with it: nexus run --run {run}")
    pid, _, title = lock.read_text("utf-8", "replace").partition(" ")
    if not pid.isdecimal() or title != TITLE:
        who = f"process {pid} ({title})" if pid.isdecimal() else "another process"
        raise NexusError(f"the run {run} is in use by {who[:80]}, which is no `{TITLE}`", "wait until it has ended")
    try:
        process = psutil.Process(int(pid))
        command = process.cmdline()
    except (psutil.Error, OverflowError) as error:
        raise NexusError(f"process {pid}, which {lock} names, cannot be looked at", "is it on this machine?") from error
    if "run" not in command or not any("nexus" in word for word in command[: command.index("run")]):
        raise NexusError(f"process {pid}, which {lock} names, is no `{TITLE}`", "is the run on another machine?")
    return process


def _is_held(lock: Path) -> bool:
    """Whether somebody has it. A shared lock is asked for: two who look at once do not see each other."""
    try:
        descriptor = os.open(lock, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)  # and with it the lock
    return False


def _must_listen(run: Path, process: psutil.Process, state: State) -> None:
    """Before a run has set up its signals, and after it has put them away, SIGUSR1 would kill it."""
    if state.kind == "run_ended":
        raise _over(run)
    if state.pid != process.pid:
        raise NexusError(f"the run {run} is only starting (process {process.pid})", "try again in a moment")


def _state(run: Path) -> State:
    events = read_events(run / EVENTS)
    pid = next((event.facts.get("pid") for event in reversed(events) if event.kind == "run_started"), 0)
    last = next((event for event in reversed(events) if event.kind in LASTING), Event("", 0.0))
    return State(last.kind, str(last.facts.get("reason", "")), pid or 0, sum(e.kind in LASTING for e in events))


def _send(process: psutil.Process, signum: signal.Signals) -> None:
    try:
        process.send_signal(signum)  # psutil looks whether the number belongs to another process by now
    except psutil.AccessDenied as error:
        raise NexusError(f"process {process.pid} belongs to another user", "ask them, or be root") from error
    except psutil.NoSuchProcess as error:
        raise NexusError(f"process {process.pid} has ended", "look at what it said") from error


def _wait(run: Path, process: psutil.Process, before: State, patience: float) -> State:
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if (state := _state(run)).told > before.told:
            return state
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            raise _over(run)
        time.sleep(POLL)
    raise NexusError(
        f"process {process.pid} was asked, and has not answered in {patience:g} s",
        f"it answers when its present operation ends; see the end of {run / EVENTS}",
    )


def _over(run: Path) -> NexusError:
    return NexusError(f"the run {run} has ended meanwhile", f"go on with it: nexus run --run {run}")
