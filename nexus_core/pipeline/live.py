"""Show a run while it works: a live display on a terminal, lines elsewhere, JSON for programs.

Everything here writes on its own descriptors from the thread of `Events`, so a main thread that is held in the midst of a
print holds no lock that a display waits for. The terminal's cursor and modes are never touched: there is nothing to restore,
also where the process is killed.
"""

from __future__ import annotations

import io
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TextIO

from nexus_core.pipeline.board import Board, duration, figure_words, progress_words
from nexus_core.pipeline.events import EVENTS, PRINTED, SILENCE, TICK, Event, Events, Journal, Sink
from nexus_core.pipeline.pausing import Halted
from nexus_core.printable import one_line

if TYPE_CHECKING:
    from rich.console import RenderableType

Mode = Literal["auto", "plain", "json"]
BAR = 30  # columns


@contextmanager
def watching(mode: Mode, run: Path) -> Iterator[Events]:
    """The events of a run, shown in this way and appended to RUN/events.jsonl; their thread ends with the block.

    `auto` is a live display where stderr is a terminal that can show one, else plain lines on stderr. JSON goes to stdout,
    and what is printed meanwhile goes to stderr. A guard's `Halted` leaves the block as the error that it carries.
    """
    if mode == "auto":
        mode = "plain" if not sys.stderr.isatty() or os.environ.get("TERM", "dumb") == "dumb" else "auto"
    with ExitStack() as stack:
        events = Events([Journal(run / EVENTS), _display(mode)])
        stack.callback(events.close)
        _redirect(mode, events, stack)
        events.open()
        try:
            yield events
            events.flush()
            events.brake.obey()  # a disk that took no more events is an error, also where it took no more at the very end
        except Halted as halted:
            raise halted.error from halted.__cause__


def _display(mode: Mode) -> Sink:
    if mode == "json":
        return JsonLines(_own(sys.stdout))
    return Lines(_own(sys.stderr)) if mode == "plain" else Live(_own(sys.stderr))


def _redirect(mode: Mode, events: Events, stack: ExitStack) -> None:
    """What somebody prints meanwhile breaks neither the JSON nor the display."""
    if mode == "json":
        stack.enter_context(_stdout_to_stderr())
    elif mode == "auto":
        if sys.stdout.isatty():
            stack.enter_context(redirect_stdout(stack.enter_context(Above(sys.stdout, events.printed))))
        stack.enter_context(redirect_stderr(stack.enter_context(Above(sys.stderr, events.printed))))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """The descriptor itself, so that what a child or a library in C prints goes there, too."""
    try:
        out, err = sys.stdout.fileno(), sys.stderr.fileno()
    except io.UnsupportedOperation:  # a test's
        with redirect_stdout(sys.stderr):
            yield
        return
    sys.stdout.flush()
    before = os.dup(out)
    os.dup2(err, out)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(before, out)
        os.close(before)


def _own(stream: TextIO) -> TextIO:
    """Another stream on the same descriptor; the same stream where it has none (a test's)."""
    try:
        descriptor = os.dup(stream.fileno())
    except io.UnsupportedOperation:
        return stream
    stream.flush()
    return open(descriptor, "w", encoding=stream.encoding, errors="replace", buffering=1)  # noqa: PTH123


class JsonLines:
    """One JSON document per line: what is in events.jsonl, as it happens."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def take(self, event: Event, written: bool) -> bool:
        if written:
            self._stream.write(f"{event.line()}\n")
            self._stream.flush()
        return written

    def tick(self) -> None:
        pass

    def close(self) -> None:
        _close(self._stream)


class Lines:
    """`[  12.3 s] profile/zoo-math/math: 120 of 400 samples, 12.3/s, 23.1 s left`"""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._board, self._progress = stream, Board(), 0.0

    def take(self, event: Event, written: bool) -> bool:
        self._board.follow(event)
        if event.kind == "unit_progress" and not self._is_time(event):
            return False
        text = words(event, self._board)
        if text:
            at = time.monotonic() - self._board.started
            self._stream.write(f"[{at:7.1f} s] {one_line(text)}\n")
            self._stream.flush()
        return bool(text)

    def tick(self) -> None:
        pass

    def close(self) -> None:
        _close(self._stream)

    def _is_time(self, event: Event) -> bool:
        now = time.monotonic()
        if now - self._progress < SILENCE and event.facts.get("done") != event.facts.get("total"):
            return False
        self._progress = now
        return True


def words(event: Event, board: Board) -> str:
    """An event in words; empty for one that says nothing to a person."""
    facts = event.facts
    match event.kind:
        case "run_started":
            left = f", about {duration(board.left() or 0)}" if board.units else ""
            return f"{board.units - board.units_done} of {board.units} units to do{left}"
        case "stage_started":
            return f"stage {facts['stage']}: {facts.get('name', '')}"
        case "stage_ended":
            return f"stage {facts['stage']} ended after {duration(facts['seconds'])}"
        case "unit_started":
            return f"{facts['unit']}" + (f": about {duration(facts['estimate'])}" if facts.get("estimate") else "")
        case "unit_said":
            return f"{facts['unit']}: {facts['text']}"
        case "unit_progress":
            return f"{facts['unit']}: {', '.join(filter(None, [progress_words(board.work), figure_words(board.work)]))}"
        case "unit_ended":
            return f"{facts['unit']}: " + (
                "as it was" if facts.get("reused") else f"done in {duration(facts['seconds'])}"
            )
        case "heartbeat":
            what = f"paused ({facts['paused']})" if "paused" in facts else f"at work for {duration(facts['seconds'])}"
            return f"{facts['unit'] or 'nexus run'}: {what}, {facts['memory_mb']:,} MiB"
        case "paused":
            return f"paused {facts['reason']}"
        case "resumed":
            return "resumed"
        case "warning":
            return f"warning: {facts['text']}"
        case "run_ended":
            return f"ended: {facts.get('verdict') or 'status ' + str(facts.get('status'))}"
    return ""


class Live:
    """The live display: stages, the unit at work with rate, time left, loss and worst retention, and time to the end."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive

        class Still(Console):
            """A console that leaves the cursor alone: a killed process could not show it again."""

            def show_cursor(self, show: bool = True) -> bool:
                return False

        self._stream, self._board, self._drawn = stream, Board(), 0.0
        self._console = Still(file=stream, highlight=False, markup=False, emoji=False)
        self._live = RichLive(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
            get_renderable=self._picture,
        )

    def take(self, event: Event, written: bool) -> bool:
        self._live.start()
        self._board.follow(event)
        if event.kind == PRINTED:
            self._console.print(event.facts["text"])
        elif event.kind == "warning":
            self._console.print(f"warning: {one_line(str(event.facts['text']))}", style="yellow")
        return True

    def tick(self) -> None:
        if self._live.is_started and time.monotonic() - self._drawn >= TICK:
            self._drawn = time.monotonic()
            self._live.refresh()

    def close(self) -> None:
        self._live.stop()
        _close(self._stream)

    def _picture(self) -> RenderableType:
        from rich.console import Group
        from rich.text import Text

        board = self._board
        head = ["nexus run", *([f"{board.units_done} of {board.units} units"] if board.units else [])]
        head.append(duration(time.monotonic() - board.started))
        if (left := board.left()) is not None:
            head.append(f"about {duration(left)} left")
        if board.end:
            head.append(board.end)
        lines: list[RenderableType] = [Text("  ".join(head), style="bold")]
        for number, stage in board.stages.items():
            over = stage.seconds is not None
            seconds = time.monotonic() - stage.since if stage.seconds is None else stage.seconds
            text = f"  {number} {stage.name:<10} {duration(seconds):>8}" + ("" if over else "  at work")
            lines.append(Text(text, style="green" if over else "cyan"))
        if board.paused:
            lines.append(Text(f"paused {one_line(board.paused)}", style="bold yellow"))
        return Group(*lines, *self._unit())

    def _unit(self) -> Iterator[RenderableType]:
        from rich.columns import Columns
        from rich.progress_bar import ProgressBar
        from rich.text import Text

        board, work = self._board, self._board.work
        if not work.unit:
            return
        yield Text(f"{work.unit}  {duration(time.monotonic() - work.since)}")
        if work.base is not None and work.total:
            yield Columns([ProgressBar(total=work.total, completed=work.done, width=BAR), Text(progress_words(work))])
        elif work.base is not None:
            yield Text(progress_words(work))
        memory = f"{board.memory_mb:,} MiB" if board.memory_mb else ""
        if figures := ", ".join(filter(None, [figure_words(work), memory])):
            yield Text(figures)
        if work.text:
            yield Text(work.text, style="dim", overflow="ellipsis", no_wrap=True)


class Above(io.TextIOBase):
    """stdout or stderr while the display is there: each line that is printed goes above it."""

    def __init__(self, below: TextIO, tell: Callable[[str], None]) -> None:
        self._below, self._tell, self._rest = below, tell, ""

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed has an attribute here
        return self._below.encoding

    def write(self, text: str) -> int:
        *lines, self._rest = re.split(r"[\r\n]", self._rest + text)
        for line in lines:
            if line.strip():
                self._tell(one_line(line))
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._below.fileno()

    def close(self) -> None:
        """Say what has no line end yet."""
        if self._rest.strip():
            self.write("\n")
        super().close()


def _close(stream: TextIO) -> None:
    if stream not in (sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__):
        stream.close()
