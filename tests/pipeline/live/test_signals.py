"""Real signals to real runs: how they end, how they pause, and that nothing is left of them."""

from __future__ import annotations

import os
import random
import signal
import threading
import time

import psutil
import pytest

from nexus_core.pipeline.events import Events
from nexus_core.pipeline.pausing import HEARD
from nexus_core.pipeline.signals import Stopped, signals

STATUS = {signal.SIGINT: 130, signal.SIGTERM: 143}


def said(text):
    return lambda event: event.kind == "unit_said" and event.facts["text"].startswith(text)


WORKS = ("steps", "child", "waits", "operation", "stubborn")


@pytest.mark.parametrize(
    ("signum", "work"),
    [
        *((signal.SIGINT, work) for work in WORKS),
        (signal.SIGTERM, "child"),
        *(pytest.param(signal.SIGTERM, work, marks=pytest.mark.slow) for work in WORKS if work != "child"),
    ],
)
def test_the_first_ends_it_in_order(start, gone, signum, work):
    running = start(work)
    child = running.child() if work == "child" else None
    running.signal(signum)
    begun = time.monotonic()
    status, _, err = running.end()
    assert (status, running.saved()["status"]) == (STATUS[signum], STATUS[signum])
    assert time.monotonic() - begun < 5
    assert running.events()[-1].facts == {"status": STATUS[signum], "verdict": None}
    assert err.endswith("interrupted\n")
    assert "Traceback" not in err
    assert child is None or gone(child)
    assert not any(said("swallowed")(event) for event in running.events())


@pytest.mark.parametrize("signum", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_the_second_ends_it_at_once_with_its_children(start, gone, signum):
    running = start("orphan")  # an operation that runs no Python for a minute: the first signal must wait for it
    child = running.child()
    time.sleep(0.1)
    running.signal(signum)
    running.until("warning")
    running.signal(signum)
    begun = time.monotonic()
    status, _, err = running.end()
    assert status == STATUS[signum]
    assert time.monotonic() - begun < 1
    assert gone(child)
    assert "once more stops at once" in err
    assert not (running.path / "saved").exists()


def test_what_python_would_drop_is_raised_again(start):
    running = start("lost")
    running.until(said("in __del__"))
    running.signal(signal.SIGTERM)
    status, _, err = running.end()
    assert (status, running.saved()["status"]) == (143, 143)
    assert "ignored" not in err


def until(true, seconds=5):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("work", ["steps", "child", "waits"])
def test_a_pause_holds_it_wherever_it_is_until_it_is_resumed(start, work):
    running = start(work)
    child = running.child() if work == "child" else None
    running.signal(signal.SIGUSR1)
    assert running.until("paused").facts == {"reason": "by nexus pause"}
    if child is not None:
        until(lambda: child.status() == psutil.STATUS_STOPPED)
    held = len(running.events())
    used = psutil.Process(running.process.pid).cpu_times().user
    time.sleep(0.4)
    assert [event.kind for event in running.events()[held:]] in ([], ["heartbeat"])
    assert psutil.Process(running.process.pid).cpu_times().user - used < 0.2
    running.signal(signal.SIGUSR1)  # once more is no other pause: one resume ends both
    time.sleep(0.1)
    running.signal(signal.SIGUSR2)
    running.until("resumed")
    assert child is None or child.status() != psutil.STATUS_STOPPED
    if work == "steps":
        running.until("unit_progress", after=len(running.events()))
    assert sum(event.kind == "paused" for event in running.events()) == 1
    assert running.process.poll() is None


@pytest.mark.parametrize("signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_is_paused_can_be_ended(start, gone, signum):
    running = start("child")
    child = running.child()
    running.signal(signal.SIGUSR1)
    running.until("paused")
    running.signal(signum)
    assert running.end()[0] == STATUS[signum]
    assert running.saved()["status"] == STATUS[signum]
    assert gone(child)
    assert "resumed" not in [event.kind for event in running.events()]


def test_a_child_of_a_run_that_is_killed_while_it_is_paused_does_not_stand_still_for_ever(start):
    running = start("child")
    child = running.child()
    running.signal(signal.SIGUSR1)
    running.until("paused")
    until(lambda: child.status() == psutil.STATUS_STOPPED)
    running.signal(signal.SIGKILL)
    until(lambda: child.status() != psutil.STATUS_STOPPED)
    child.kill()


@pytest.mark.slow
def test_a_storm_of_pauses_and_resumes(start):
    running = start("steps")
    dice = random.Random(42)
    for _ in range(200):
        running.signal(dice.choice([signal.SIGUSR1, signal.SIGUSR2, signal.SIGURG]))
        time.sleep(dice.random() / 100)
    running.signal(signal.SIGUSR2)
    running.until("unit_progress", after=len(running.events()))
    kinds = [event.kind for event in running.events() if event.kind in ("paused", "resumed")]
    assert kinds[:2] == ["paused", "resumed"]
    running.signal(signal.SIGTERM)
    assert running.end()[0] == 143


def test_after_the_block_everything_is_as_before():
    before = {signum: signal.getsignal(signum) for signum in HEARD}
    threads = threading.enumerate()
    events = Events([])
    with pytest.raises(Stopped) as stopped, signals(events):
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert stopped.value.status == 143
    assert {signum: signal.getsignal(signum) for signum in HEARD} == before
    assert threading.enumerate() == threads
    assert signal.set_wakeup_fd(-1) == -1
