"""How far a run is, put together from its events: what the displays show, and how they word it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from nexus_core.pipeline.events import Event
from nexus_core.printable import one_line


@dataclass
class Stage:
    name: str
    since: float
    seconds: float | None = None  # once it has ended


@dataclass
class Work:
    """The unit at work. `base` is when its progress was first told, and where it was then: it may go on from the middle."""

    unit: str = ""
    since: float = 0.0
    done: float = 0.0
    total: float | None = None
    word: str = ""
    text: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    base: tuple[float, float] | None = None
    latest: float = 0.0  # when it was told last

    def progress(self, facts: dict[str, Any], now: float) -> None:
        done, total = float(facts["done"]), facts.get("total")
        if self.base is None or done < self.done or total != self.total:  # another phase of it
            self.base = (now, done)
        self.latest = now
        self.done, self.total, self.word = done, total, str(facts.get("unit_word", ""))
        self.figures |= {name: facts[name] for name in ("loss", "retention", "worst") if facts.get(name) is not None}

    def rate(self) -> float | None:
        """Per second, over all the progress that was told."""
        if self.base is None or self.done <= self.base[1] or self.latest <= self.base[0]:
            return None
        return (self.done - self.base[1]) / (self.latest - self.base[0])

    def left(self, now: float) -> float | None:
        """Seconds that it still takes at this rate."""
        rate = self.rate()
        if rate is None or self.total is None:
            return None
        return max(0.0, (self.total - self.done) / rate - (now - self.latest))


class Board:
    """Follows the events. Times are of the monotonic clock; the system's may jump."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.stages: dict[int, Stage] = {}
        self.work = Work()
        self.estimates: dict[str, float] = {}  # of the units to come
        self.units, self.units_done = 0, 0
        self.paused, self.memory_mb, self.end = "", 0, ""

    def follow(self, event: Event) -> None:
        if answer := getattr(self, f"_{event.kind}", None):
            answer(dict(event.facts))

    def left(self) -> float | None:
        """Seconds to the end of the run, by the estimates of the plan and the rate of the unit at work."""
        if not self.units or self.end:
            return None
        now = time.monotonic()
        others = sum(seconds for unit, seconds in self.estimates.items() if unit != self.work.unit)
        planned = max(0.0, self.estimates.get(self.work.unit, 0.0) - (now - self.work.since))
        own = self.work.left(now)
        return others + (planned if own is None else own)

    def _run_started(self, facts: dict[str, Any]) -> None:
        plan = facts.get("plan") or []
        self.units = len(plan)
        self.units_done = sum(bool(row.get("done")) for row in plan)
        self.estimates = {row["unit"]: float(row.get("estimate") or 0) for row in plan if not row.get("done")}

    def _stage_started(self, facts: dict[str, Any]) -> None:
        self.stages[facts["stage"]] = Stage(str(facts.get("name", "")), time.monotonic())

    def _stage_ended(self, facts: dict[str, Any]) -> None:
        if stage := self.stages.get(facts["stage"]):
            stage.seconds = float(facts["seconds"])

    def _unit_started(self, facts: dict[str, Any]) -> None:
        self.work = Work(facts["unit"], time.monotonic())
        if facts.get("estimate"):
            self.estimates[facts["unit"]] = float(facts["estimate"])

    def _unit_said(self, facts: dict[str, Any]) -> None:
        self.work.text = one_line(str(facts["text"]), 200)

    def _unit_progress(self, facts: dict[str, Any]) -> None:
        self.work.progress(facts, time.monotonic())

    def _unit_ended(self, facts: dict[str, Any]) -> None:
        self.units_done += self.estimates.pop(facts["unit"], None) is not None
        self.work = Work()

    def _heartbeat(self, facts: dict[str, Any]) -> None:
        self.memory_mb = facts["memory_mb"]

    def _paused(self, facts: dict[str, Any]) -> None:
        self.paused = str(facts.get("reason", "")) or "paused"

    def _resumed(self, facts: dict[str, Any]) -> None:
        self.paused, self.work.base = "", None  # what was done before says nothing about the rate from here

    def _run_ended(self, facts: dict[str, Any]) -> None:
        self.end, self.work = str(facts.get("verdict") or "ended"), Work()


def duration(seconds: float) -> str:
    """12.3 s, 2:05, 1:02:03."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def progress_words(work: Work) -> str:
    """120 of 400 samples, 12.3/s, 23.1 s left"""
    parts = [f"{work.done:,g}" + (f" of {work.total:,g}" if work.total else "") + f" {work.word}".rstrip()]
    if rate := work.rate():
        parts.append(f"{rate:.3g}/s")
    if (left := work.left(time.monotonic())) is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def figure_words(work: Work) -> str:
    """loss 0.812, worst retention 0.943 (reasoning)"""
    parts = []
    if "loss" in work.figures:
        parts.append(f"loss {work.figures['loss']:.4g}")
    if "retention" in work.figures:
        whose = f" ({work.figures['worst']})" if "worst" in work.figures else ""
        parts.append(f"worst retention {work.figures['retention']:.3f}{whose}")
    return ", ".join(parts)
