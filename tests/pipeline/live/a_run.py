"""A small run for tests: `... nexus run RUN WORK MODE`. WORK is one of the functions below, instead of the stages."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import click

from nexus_core.cli import main
from nexus_core.errors import NexusError
from nexus_core.lock import ProcessLock
from nexus_core.pipeline.events import Events
from nexus_core.pipeline.guards import Limits, guarded
from nexus_core.pipeline.live import watching
from nexus_core.pipeline.signals import signals

PLAN = [
    {"unit": "profile/zoo-math/math", "stage": 2, "estimate": 3.0, "done": False},
    {"unit": "distill", "stage": 4, "estimate": 60.0, "done": False},
]


@dataclass
class Here:
    run: Path
    events: Events


def steps(here):
    """Python and sleeps, with progress."""
    for done in range(1, 601):
        here.events.emit("unit_progress", unit="distill", done=done, total=600, unit_word="steps", loss=1 / done)
        time.sleep(0.05)


def short(here):
    here.events.emit("unit_started", unit="profile/zoo-math/math", stage=2, estimate=3.0)
    for done in range(1, 6):
        here.events.emit("unit_progress", unit="profile/zoo-math/math", done=done, total=5, unit_word="samples")
        time.sleep(0.06)
    print("somebody prints this", flush=True)
    print("\x1b[2Jand a library warns", file=sys.stderr)
    here.events.emit("unit_said", unit="profile/zoo-math/math", text="blocks: [bold]2[/bold], 3")
    time.sleep(0.3)
    here.events.emit("unit_ended", unit="profile/zoo-math/math", seconds=0.5, reused=False)
    here.events.emit("warning", text="one block was left out")
    here.events.emit("unit_started", unit="distill", stage=4, estimate=60.0)
    figures = {"loss": 0.5, "retention": 0.943, "worst": "math"}
    here.events.emit("unit_progress", unit="distill", done=40, total=100, unit_word="steps", **figures)
    time.sleep(0.3)


def fails(here):
    raise NexusError("the unit fails", "look")


def child(here):
    """Blocked in the read of a pipe that a child holds."""
    program = "import time\nwhile True: print(time.time(), flush=True); time.sleep(30)"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    here.events.emit("unit_said", unit="distill", text=f"child {process.pid}")
    try:
        for _ in process.stdout:
            pass
    finally:
        process.kill()
        process.communicate()


def orphan(here):
    """A child that nobody ends, and then one operation that runs no Python for a minute."""
    process = subprocess.Popen(["sleep", "60"])
    here.events.emit("unit_said", unit="distill", text=f"child {process.pid}")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000_000)


def operation(here):
    """Operations of some tenths of a second that run no Python."""
    for _ in range(300):
        hashlib.pbkdf2_hmac("sha256", b"", b"", 500_000)


def loud(here):
    """A child that prints on what it was given."""
    subprocess.run(["echo", "a child prints this"], check=True)
    print("and so do we")


def waits(here):
    threading.Event().wait(60)


def lost(here):
    """A place where Python drops what is raised."""

    class Slow:
        def __del__(self):
            here.events.emit("unit_said", unit="distill", text="in __del__")
            time.sleep(0.6)

    Slow()
    time.sleep(60)


def stubborn(here):
    """Code that catches errors for reasons of its own."""
    while True:
        try:
            time.sleep(0.05)
        except Exception:  # noqa: BLE001
            here.events.emit("unit_said", unit="distill", text="swallowed")


def heat(here):
    """The thermometer is a file that the test writes."""
    file = here.run / "degrees"
    with guarded(here.events, Limits((here.run,), 1, 1, every=0.05), lambda: {"k10temp": float(file.read_text())}):
        steps(here)


def fills(here):
    """Writes until somebody stops it."""
    with guarded(here.events, Limits((here.run,), 1, 2, every=0.02)), (here.run / "data").open("wb", 0) as file:
        while True:
            file.write(bytes(1 << 16))
            time.sleep(0.01)


def burst(here):
    """Events from a handler in the midst of events."""
    signal.signal(signal.SIGALRM, lambda *_: here.events.emit("unit_said", unit="handler", text="x"))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    for number in range(4000):
        here.events.emit("unit_said", unit="main", text=str(number))
    signal.setitimer(signal.ITIMER_REAL, 0)


def a_run(run, work, mode):
    path = Path(run)
    path.mkdir(exist_ok=True)
    with ProcessLock(path / ".lock", run, "nexus run"), watching(mode, path) as events, signals(events):
        status = 1
        try:
            events.emit("run_started", plan=PLAN)
            events.emit("stage_started", stage=4, name="distill")
            events.emit("unit_started", unit="distill", stage=4)
            WORK[work](Here(path, events))
            events.emit("stage_ended", stage=4, seconds=1.0)
            status = 0
        except KeyboardInterrupt as stopped:
            status = stopped.status
            raise
        finally:
            (path / "saved").write_text(json.dumps({"status": status}))
            events.emit("run_ended", status=status, verdict="PASS" if status == 0 else None)
    print("threads:", *(thread.name for thread in threading.enumerate()))


@click.command("run")
@click.argument("run")
@click.argument("work")
@click.argument("mode")
def command(run, work, mode):
    a_run(run, work, mode)


JOBS = (steps, short, fails, child, orphan, operation, loud, waits, lost, stubborn, heat, fills, burst)
WORK = {job.__name__: job for job in JOBS}

if __name__ == "__main__":
    main.cli.lazy.clear()
    main.cli.add_command(command)
    main.main()  # errors and interruptions end as those of `nexus` do
