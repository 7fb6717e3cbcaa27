"""What holds a run and what ends it, from outside the main thread: the person who pauses, the heat, a disk that is full.

Nobody can raise in another thread. So whoever wants the main thread to wait or to end writes that down here and sends it a
signal; the handler (see signals.py) runs between two of its bytecodes, looks, and waits or raises there.
"""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psutil

from nexus_core.errors import NexusError

NUDGE = signal.SIGURG  # ignored where nobody handles it, so a late one kills nobody; Go nudges its threads with it, too
HEARD = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, NUDGE})
POLL = 0.05  # seconds between two looks while the run is held


class Halted(BaseException):
    """A guard ends the run with `error`. No Exception: what a unit catches for its own reasons must not catch this."""

    def __init__(self, error: NexusError) -> None:
        super().__init__(error.message)
        self.error = error


class Brake:
    """Who holds the run, and why; what ends it. Written by any thread or handler, obeyed by the main thread.

    No lock: a handler may run while its own thread is in any of these methods. Each is one operation on a dict.
    """

    def __init__(self) -> None:
        self.ending = False  # the main thread is on its way out: nothing holds or ends it a second time
        self.seconds_held = 0.0
        self._holds: dict[str, str] = {}
        self._error: NexusError | None = None
        self._lost: BaseException | None = None

    @property
    def held(self) -> bool:
        return bool(self._holds) and self._error is None and not self.ending

    @property
    def reason(self) -> str:
        return "; ".join(list(self._holds.values()))

    def hold(self, who: str, reason: str) -> None:
        """The run waits until `who` releases it. Several may hold it."""
        self._holds[who] = reason
        nudge()

    def release(self, who: str) -> None:
        self._holds.pop(who, None)

    def end(self, error: NexusError) -> None:
        """The run ends with this error; the first one counts."""
        if self._error is None:
            self._error = error
            nudge()

    def obey(self) -> None:
        """Raise what ends the run, once. Called in the main thread."""
        if self._lost is not None:
            lost, self._lost = self._lost, None
            raise lost
        if self._error is not None and not self.ending:
            self.ending = True
            raise Halted(self._error)

    def lost(self, error: BaseException) -> None:
        """`error` was raised where Python drops it (a `__del__`, a callback): it is raised again at the next reminder."""
        self._lost = error

    def remind(self) -> None:
        """Called by a thread, now and then."""
        if self._lost is not None:
            nudge()

    def wait(self, changed: Callable[[str], Any]) -> None:
        """Stay here while anybody holds the run; `changed` is told each new reason. Children wait, too."""
        started, told = time.monotonic(), ""
        try:
            with frozen_children():
                while self.held:
                    if (reason := self.reason) and reason != told:
                        changed(told := reason)
                    time.sleep(POLL)
        finally:
            self.seconds_held += time.monotonic() - started


def nudge() -> None:
    """Make the main thread look, also when it waits in a system call."""
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, NUDGE)


def deaf() -> None:
    """Called by a helper thread: signals are for the main thread, whose system calls they must interrupt."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HEARD)


@contextmanager
def frozen_children() -> Iterator[None]:
    """The processes that this one started stand still: a pause that only half of the run takes cools nothing.

    A shell waits for the end of a pipe and then lets them go on. The pipe ends with the block, and with this process,
    however that ends: a child of a run that is killed while it is paused would else stand there for ever.
    """
    children = psutil.Process().children(recursive=True)
    if not children:
        yield
        return
    release = f"read line; kill -CONT {' '.join(str(child.pid) for child in children)} 2>/dev/null"
    shell = subprocess.Popen(["/bin/sh", "-c", release], stdin=subprocess.PIPE, start_new_session=True)
    try:
        for child in children:
            with suppress(psutil.NoSuchProcess):
                child.suspend()
        yield
    finally:
        shell.communicate()  # closes the pipe, and waits until they are released
