"""Ctrl-C, `kill`, `nexus pause`: what a run does when a signal comes.

The first SIGINT or SIGTERM raises `Stopped` in the main thread, wherever it is; the run saves and ends. The second one ends
the process at once, also while the main thread is in a long operation that runs no Python: a thread reads the signals'
numbers from the wakeup descriptor. SIGUSR1 holds the main thread inside the handler until SIGUSR2 comes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

import psutil

from nexus_core.pipeline.events import Events
from nexus_core.pipeline.pausing import HEARD, Halted, deaf

ENDING = frozenset({signal.SIGINT, signal.SIGTERM})
BY_PERSON = "by nexus pause"  # the reason that a person's pause is told with
GRACE = 0.3  # seconds in which a run that is told to end may do so without a word
PERSON = "person"  # who holds the run after SIGUSR1, see pausing.Brake


class Stopped(KeyboardInterrupt):
    """SIGINT or SIGTERM: save, and end with `status`."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
        self.status = 128 + signum


@contextmanager
def signals(events: Events) -> Iterator[None]:
    """Inside the block, signals act on the run as this module says; afterwards as before. In the main thread only.

    `run_started` is emitted inside it, and so is `run_ended`: between the two, `nexus pause` may send its signal.
    """
    desk = _Desk(events)
    before = {signum: signal.signal(signum, desk.answer) for signum in HEARD}
    lost, sys.unraisablehook = sys.unraisablehook, desk.raise_again
    try:
        with _watched(desk):
            yield
    finally:
        sys.unraisablehook = lost
        for signum, handler in before.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)  # None: it was not Python's


class _Desk:
    """The answers to signals, in the main thread."""

    def __init__(self, events: Events) -> None:
        self.events, self.brake = events, events.brake
        self.hook = sys.unraisablehook
        self.waiting = False
        self.stopped = False

    def answer(self, signum: int, frame: FrameType | None) -> None:
        if signum in ENDING:
            self.stop(signum)
        elif signum == signal.SIGUSR1:
            self.brake.hold(PERSON, BY_PERSON)  # which nudges
        elif signum == signal.SIGUSR2:
            self.brake.release(PERSON)
        else:
            self.obey()

    def stop(self, signum: int) -> None:
        """Once: the second time is the business of `_count`."""
        if not self.stopped:
            self.stopped = self.brake.ending = True
            raise Stopped(signum)

    def obey(self) -> None:
        """Wait while the run is held, then go on or end. A signal that comes meanwhile runs this inside itself."""
        if self.waiting:
            return
        while self.brake.held:  # again where somebody held it while the wait was ending
            self.waiting = True
            try:
                self.brake.wait(lambda reason: self.events.emit("paused", reason=reason))
            finally:
                self.waiting = False
            if not self.brake.ending:
                self.events.emit("resumed")
        self.brake.obey()

    def raise_again(self, lost: Any) -> None:
        """Python drops what is raised in a `__del__` or a callback; an end of the run must not be dropped."""
        if isinstance(lost.exc_value, Stopped | Halted):
            self.brake.lost(lost.exc_value)
        else:
            self.hook(lost)


@contextmanager
def _watched(desk: _Desk) -> Iterator[None]:
    """A thread sees each signal when it comes, whatever the main thread does."""
    inbox, outbox = socket.socketpair()
    with inbox, outbox:
        outbox.setblocking(False)  # the descriptor is written to by the C handler, which must not wait
        before = signal.set_wakeup_fd(outbox.fileno(), warn_on_full_buffer=False)
        thread = threading.Thread(target=_count, args=(inbox, desk.events), name="nexus-signals", daemon=True)
        try:
            thread.start()  # inside: the handlers stand already, and may raise here
            yield
        finally:
            signal.set_wakeup_fd(before)
            outbox.shutdown(socket.SHUT_WR)
            if thread.ident is not None:
                thread.join()


def _count(inbox: socket.socket, events: Events) -> None:
    """Until the other side closes: leave at the second signal that ends, and say so while the first one is not obeyed."""
    deaf()
    ends = 0
    while True:
        try:
            numbers = inbox.recv(64)
        except TimeoutError:
            inbox.settimeout(None)
            events.emit("warning", text="stopping when this operation ends; once more stops at once, and saves nothing")
            continue
        if not numbers:
            return
        for signum in numbers:
            if signum in ENDING:
                ends += 1
                inbox.settimeout(GRACE)
            if ends > 1:
                leave(signum)


def leave(signum: int) -> NoReturn:
    """End this process and those that it started, now."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            child.kill()
    if os.isatty(2):  # a display may be in the midst of a coloured line
        os.write(2, b"\x1b[0m\n")
    os._exit(128 + signum)
