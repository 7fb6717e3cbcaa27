"""Real runs in processes of their own (see a_run.py): on pipes, or on a pseudo-terminal of their own."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from nexus_core.pipeline.events import Event, read_events

PROGRAM = f"import runpy; runpy.run_path({str(Path(__file__).with_name('a_run.py'))!r}, run_name='__main__')  # nexus"


class Running:
    """A run at work. `until` waits for an event; `out` and `err` are all that it said, once it has ended."""

    def __init__(self, run: Path, work: str, mode: str, terminal: int | None) -> None:
        self.path, self.terminal = run, terminal
        pipe = subprocess.PIPE if terminal is None else terminal
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, "run", str(run), work, mode],
            stdin=subprocess.DEVNULL if terminal is None else terminal,
            stdout=pipe,
            stderr=pipe,
            start_new_session=True,
            preexec_fn=None if terminal is None else lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )

    def events(self) -> list[Event]:
        return read_events(self.path / "events.jsonl")

    def until(self, seen: Callable[[Event], bool] | str, seconds: float = 20.0, after: int = 0) -> Event:
        """The first event of this kind, or of which this is true; `after` so many events."""
        test = seen if callable(seen) else lambda event: event.kind == seen
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := [event for event in self.events()[after:] if test(event)]:
                return found[0]
            if self.process.poll() is not None and self.terminal is None:
                raise AssertionError(self.process.communicate())
            time.sleep(0.01)
        raise AssertionError(f"not seen in {seconds} s: {self.events()[after:][-3:]}")

    def child(self) -> psutil.Process:
        said = self.until(lambda event: event.kind == "unit_said" and event.facts["text"].startswith("child "))
        return psutil.Process(int(said.facts["text"].split()[1]))

    def signal(self, signum: int) -> None:
        self.process.send_signal(signum)

    def end(self, seconds: float = 10.0) -> tuple[int, str, str]:
        """Exit status, stdout, stderr."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, out.decode(), err.decode()

    def saved(self) -> dict[str, object]:
        """What the run wrote down on its way out."""
        return json.loads((self.path / "saved").read_text())


def is_gone(process: psutil.Process) -> bool:
    """It does nothing any more; that its adopter has not yet taken note of it is no matter."""
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


class Terminal:
    """The other side of a pseudo-terminal: what a person would see and type."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (40, 100))
        self.before = termios.tcgetattr(self.slave)
        self.shown = b""

    def read(self, until: bytes | None = None, seconds: float = 20.0) -> str:
        """Everything up to now, having waited for `until`, or else for the end."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not (until and until in self.shown):
            if select.select([self.master], [], [], 0.05)[0]:
                self.shown += os.read(self.master, 1 << 16)
            elif until is None:
                break
        assert until is None or until in self.shown, self.shown[-2000:].decode(errors="replace")
        return self.shown.decode()

    def type(self, keys: bytes) -> None:
        os.write(self.master, keys)

    def is_as_it_was(self) -> bool:
        """Its modes are those from before, and nothing has hidden its cursor or taken another screen."""
        untouched = not any(code in self.read() for code in ("\x1b[?25l", "\x1b[?1049h", "\x1b[?47h"))
        return untouched and termios.tcgetattr(self.slave) == self.before


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    there = Terminal()
    yield there
    os.close(there.master)
    os.close(there.slave)


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Running]]:
    """`start(WORK, mode="plain", terminal=None)`: a run in tmp_path/run. What is left of it at the end is killed."""
    begun: list[Running] = []
    monkeypatch.setenv("TERM", "xterm")

    def begin(work: str, mode: str = "plain", terminal: Terminal | None = None, wait: bool = True) -> Running:
        begun.append(Running(tmp_path / "run", work, mode, terminal.slave if terminal else None))
        if wait:
            begun[-1].until(lambda event: event.kind == "unit_started")
        return begun[-1]

    yield begin
    for one in begun:
        left = []
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(one.process.pid).children(recursive=True)
        one.process.kill()
        for child in left:  # before the pipes are read to their ends, which a child holds open
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        with contextlib.suppress(ValueError):
            one.process.communicate()


@pytest.fixture
def gone() -> Callable[[psutil.Process], bool]:
    return is_gone
