"""What a run tells while it works: one stream of events, to a display, to other programs, and to RUN/events.jsonl.

`emit` only puts an event on a queue. One thread takes them off and writes, so that a signal's handler may emit in the midst
of anything, and so that somebody is there to say that a long unit is still at work.

| kind | facts |
|---|---|
| run_started | plan: [{unit, stage, estimate (seconds), done}, ...]; pid, which `emit` adds. Told inside `signals` |
| stage_started, stage_ended | stage (its number), name; seconds |
| unit_started | unit, stage; estimate (seconds), where there is one |
| unit_said | unit, text |
| unit_progress | unit, done, total (or None); unit_word ("steps"), loss, retention (the worst share), worst (whose) |
| unit_ended | unit, seconds, reused |
| heartbeat | unit, seconds, memory_mb (of this process and its children); paused (why), while it is |
| paused, resumed | reason |
| warning | text |
| run_ended | status (of the process); verdict, bundle, report |
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from nexus_core.errors import DataError, NexusError
from nexus_core.pipeline.pausing import Brake, deaf

Kind = Literal[
    "run_started",
    "stage_started",
    "stage_ended",
    "unit_started",
    "unit_said",
    "unit_progress",
    "unit_ended",
    "heartbeat",
    "paused",
    "resumed",
    "warning",
    "run_ended",
]
FACTS: Mapping[Kind, frozenset[str]] = {  # which no event of this kind is without
    "run_started": frozenset({"plan"}),
    "stage_started": frozenset({"stage", "name"}),
    "stage_ended": frozenset({"stage", "seconds"}),
    "unit_started": frozenset({"unit", "stage"}),
    "unit_said": frozenset({"unit", "text"}),
    "unit_progress": frozenset({"unit", "done", "total"}),
    "unit_ended": frozenset({"unit", "seconds", "reused"}),
    "heartbeat": frozenset({"unit", "seconds", "memory_mb"}),
    "paused": frozenset({"reason"}),
    "resumed": frozenset(),
    "warning": frozenset({"text"}),
    "run_ended": frozenset({"status"}),
}
PRINTED = "printed"  # for the display alone
EVENTS = "events.jsonl"
SILENCE = 4.0  # seconds without anything to see after which the run says that it is at work; the promise is 5
PROGRESS = 1.0  # seconds between two written progress events of a unit; a display sees every one
TICK = 0.25  # seconds between two looks at the clock, and two frames of a display


@dataclass(frozen=True, slots=True)
class Event:
    """`at` is the system's clock, in seconds since 1970; it may jump, and no duration is taken from it."""

    kind: str
    at: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def line(self) -> str:
        """As one line of JSON."""
        return json.dumps({"kind": self.kind, "at": round(self.at, 3), **_plain(self.facts)}, ensure_ascii=False)


class Sink(Protocol):
    """Where events go. Called by one thread."""

    def take(self, event: Event, written: bool) -> bool:
        """Show or write it. `written` is false for progress that comes too fast to be written down.

        Returns whether somebody who watches has seen something new.
        """

    def tick(self) -> None:
        """The clock has moved on."""

    def close(self) -> None:
        """Nothing more comes."""


@dataclass(frozen=True, slots=True)
class _Mark:
    """On the queue between events: everything before it is written."""

    reached: threading.Event


class Events:
    """The stream. Open between `open` and `close`; see `live.watching`."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.brake = Brake()
        self._sinks = list(sinks)
        self._queue: queue.SimpleQueue[Event | _Mark | None] = (
            queue.SimpleQueue()
        )  # its put may be interrupted by a put
        self._pulse = _Pulse()
        self._thread = threading.Thread(target=self._work, name="nexus-events", daemon=True)

    def emit(self, kind: Kind, **facts: Any) -> None:
        """Tell it. Returns at once; raises where a guard, or a disk that takes no more events, has ended the run."""
        assert FACTS[kind] <= facts.keys(), (kind, facts)
        if kind == "run_started":
            facts["pid"] = os.getpid()  # by which another process knows that this one is ready to be paused
        self._queue.put(Event(kind, time.time(), facts))
        if threading.current_thread() is threading.main_thread():
            self.brake.obey()

    def clock(self) -> float:
        """Seconds on a clock that stands still while the run is paused: for how long a unit took."""
        return time.monotonic() - self.brake.seconds_held

    def flush(self) -> None:
        """Return when everything that was emitted is written: before events.jsonl is read by the run itself."""
        mark = _Mark(threading.Event())
        self._queue.put(mark)
        while self._thread.is_alive() and not mark.reached.wait(TICK):
            pass

    def open(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Write what is left, and end the thread."""
        self._queue.put(None)
        if self._thread.ident is not None:
            self._thread.join()

    def printed(self, text: str) -> None:
        """A line that somebody printed while a display is in its place. Shown, and written nowhere."""
        self._queue.put(Event(PRINTED, time.time(), {"text": text}))

    def _work(self) -> None:
        deaf()
        going = True
        try:
            while going:
                with suppress(queue.Empty):
                    going = self._next(self._queue.get(timeout=TICK))
                if beat := self._pulse.beat(self.brake):
                    self._tell(beat)
                self._each("tick")
                self.brake.remind()
            self._each("close")
        finally:
            if going:  # a fault of ours, whose traceback Python prints: no run goes on that nobody can see
                self.brake.end(NexusError("the display has failed", "report the traceback above"))

    def _next(self, item: Event | _Mark | None) -> bool:
        """Whether there may be more."""
        if isinstance(item, Event):
            self._tell(item)
        elif item is not None:
            item.reached.set()
        return item is not None

    def _tell(self, event: Event) -> None:
        written = self._pulse.follow(event)
        if self._each("take", event, written):
            self._pulse.seen()

    def _each(self, what: Literal["take", "tick", "close"], *arguments: Any) -> bool:
        """Whether any sink has shown something. One that cannot write ends the run, and is asked no more."""
        shown = False
        for sink in list(self._sinks):
            try:
                shown = bool(getattr(sink, what)(*arguments)) or shown
            except OSError as error:
                self._sinks.remove(sink)
                self.brake.end(_cannot_write(error))
        return shown


class _Pulse:
    """Which unit is at work and since when; when somebody saw something last; which progress was written last."""

    def __init__(self) -> None:
        self.unit, self.since, self.last = "", time.monotonic(), time.monotonic()
        self.progress: tuple[str, float] = ("", 0.0)

    def seen(self) -> None:
        self.last = time.monotonic()

    def follow(self, event: Event) -> bool:
        """Whether this event is written down."""
        now = time.monotonic()
        if event.kind == "unit_started":
            self.unit, self.since = str(event.facts["unit"]), now
        elif event.kind == "unit_ended":
            self.unit, self.since = "", now
        elif event.kind == "unit_progress":
            unit, at = self.progress
            full = event.facts.get("done") == event.facts.get("total")
            if unit == event.facts["unit"] and now - at < PROGRESS and not full:
                return False
            self.progress = (event.facts["unit"], now)
        return True

    def beat(self, brake: Brake) -> Event | None:
        """A sign of life, where nobody has seen one for too long."""
        now = time.monotonic()
        if now - self.last < SILENCE:
            return None
        self.last = now
        facts: dict[str, Any] = {"unit": self.unit, "seconds": round(now - self.since, 1), "memory_mb": memory_mb()}
        if brake.held:
            facts["paused"] = brake.reason
        return Event("heartbeat", time.time(), facts)


class Journal:
    """RUN/events.jsonl: every event of every start of this run."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _cannot_write(error) from error
        self._drop_torn_line()

    def take(self, event: Event, written: bool) -> bool:
        if written:
            data = f"{event.line()}\n".encode()
            while data:
                data = data[os.write(self._file, data) :]
        return False

    def tick(self) -> None:
        pass

    def close(self) -> None:
        os.close(self._file)

    def _drop_torn_line(self) -> None:
        """What a killed run did not finish to write is no event."""
        size = os.fstat(self._file).st_size
        start = max(0, size - (1 << 20))
        tail = os.pread(self._file, size - start, start)
        if torn := len(tail) - (tail.rfind(b"\n") + 1):
            os.ftruncate(self._file, size - torn)


def read_events(path: Path) -> list[Event]:
    """All events of RUN/events.jsonl that are completely written; none where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [_event(line, path, number) for number, line in enumerate(lines, start=1)]


def _event(line: bytes, path: Path, number: int) -> Event:
    try:
        body = json.loads(line)
        return Event(str(body.pop("kind")), float(body.pop("at")), body)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}, line {number} is no event", "delete the file; only the times in it are lost"
        ) from error


def memory_mb() -> int:
    """Memory that this process and its children hold."""
    me, total = psutil.Process(), 0
    for process in [me, *me.children(recursive=True)]:
        with suppress(psutil.Error):
            total += process.memory_info().rss
    return total >> 20


def _cannot_write(error: OSError) -> NexusError:
    what = f"events cannot be written to {error.filename}" if error.filename else "the run's events cannot be written"
    return NexusError(f"{what} ({error.strerror})", "make room or give it a place to write, then: nexus run")


def _plain(value: Any) -> Any:
    """As JSON holds it; a number that is none is a word."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, str | int | float) else str(value)
