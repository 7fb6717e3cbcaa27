"""Memory, disk and temperature while a run works, and before it starts: better a clear end than a killed process.

A thread looks at them twice a second. It ends the run while there is still enough memory and disk to save what is done, and
holds it while the machine is too hot.
"""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from nexus_core.errors import NexusError
from nexus_core.pipeline.events import Events
from nexus_core.pipeline.pausing import deaf

MIB = 1 << 20
HEAT = "heat"  # who holds the run, see pausing.Brake
CGROUPS, MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
# Chips of processors and GPUs. Others have limits of their own: 80 C endangers a drive, and a voltage regulator never.
CHIPS = frozenset({"coretemp", "k10temp", "zenpower", "cpu_thermal", "cpu-thermal", "soc_thermal", "amdgpu", "nouveau"})


def _memory_margin() -> float:
    """1 GiB, which no loader fills between two looks; a tenth of the memory where that is less."""
    return min(1024.0, min(psutil.virtual_memory().total / MIB, *map(_limit_of, _groups(CGROUPS, MEMBERSHIP))) / 10)


@dataclass(frozen=True, slots=True)
class Limits:
    """`places` are directories that the run writes below; the margins stay free, in MiB; degrees are Celsius."""

    places: tuple[Path, ...] = (Path(),)
    memory_mb: float = field(default_factory=_memory_margin)
    disk_mb: float = 512.0
    hot: float = 83.0
    cool: float = 75.0
    every: float = 0.5  # seconds between two looks


@dataclass(frozen=True, slots=True)
class Needs:
    """What a plan asks for: memory of its largest unit, disk of all of them together."""

    memory_mb: float
    disk_mb: float


def check_plan(needs: Needs, limits: Limits) -> list[str]:
    """Why the plan cannot fit into this machine; empty where it can."""
    reasons, free = [], free_memory_mb()
    if needs.memory_mb + limits.memory_mb > free:
        reasons.append(_too_much("memory", needs.memory_mb, limits.memory_mb, f"{free:,.0f} MiB are free"))
    place, room = least_room(limits.places)
    if needs.disk_mb + limits.disk_mb > room:
        reasons.append(_too_much("disk", needs.disk_mb, limits.disk_mb, f"{room:,.0f} MiB are free at {place}"))
    return reasons


@contextmanager
def guarded(
    events: Events, limits: Limits, temperatures: Callable[[], Mapping[str, float]] | None = None
) -> Iterator[None]:
    """Inside the block the machine is watched. Used inside `signals(events)`, whose handler obeys."""
    with gpu_temperatures() as gpus:
        guard = _Guard(events, limits, temperatures or (lambda: {**processor_temperatures(), **gpus()}))
        over = threading.Event()
        thread = threading.Thread(target=guard.watch, args=(over,), name="nexus-guards", daemon=True)
        try:
            thread.start()  # inside: what the guard sees first may be raised here
            yield
        finally:
            over.set()
            if thread.ident is not None:
                thread.join()
            events.brake.release(HEAT)


class _Guard:
    def __init__(self, events: Events, limits: Limits, temperatures: Callable[[], Mapping[str, float]]) -> None:
        self.events, self.limits, self.temperatures = events, limits, temperatures
        self.hot = False

    def watch(self, over: threading.Event) -> None:
        deaf()
        while not over.is_set():
            try:
                self.look()
            except OSError as error:  # a place that is gone, a file system that does not answer
                self.events.brake.end(_blind(error))
            over.wait(self.limits.every)

    def look(self) -> None:
        if (free := free_memory_mb()) < self.limits.memory_mb:
            self.events.brake.end(_no_memory(free, self.limits))
        place, room = least_room(self.limits.places)
        if room < self.limits.disk_mb:
            self.events.brake.end(_no_room(place, room, self.limits))
        self.feel(self.temperatures())

    def feel(self, temperatures: Mapping[str, float]) -> None:
        """Hold the run above `hot`, and let it go when everything is below `cool`: not on and off around one limit."""
        if not temperatures:
            return
        name, degrees = max(temperatures.items(), key=lambda item: item[1])
        if degrees > self.limits.hot and not self.hot:
            self.hot = True
            reason = (
                f"{name} is at {degrees:.0f} C, over {self.limits.hot:g} C; until it is below {self.limits.cool:g} C"
            )
            self.events.brake.hold(HEAT, reason)
        elif degrees < self.limits.cool and self.hot:
            self.hot = False
            self.events.brake.release(HEAT)


def free_memory_mb() -> float:
    """Memory that can still be had: of the machine, or of a container where that has less."""
    return min(psutil.virtual_memory().available / MIB, *map(_left_in, _groups(CGROUPS, MEMBERSHIP)))


def _groups(root: Path, membership: Path) -> list[Path]:
    """The control groups (version 2) that this process is in, up to and with the root; each may limit its memory."""
    try:
        own = next((line[3:] for line in membership.read_text().splitlines() if line.startswith("0::")), "")
    except OSError:  # not Linux
        own = ""
    group = root / own.strip("/")
    return [folder for folder in [group, *group.parents] if folder.is_relative_to(root)]


def _limit_of(group: Path) -> float:
    """In MiB; infinite where it has none. The root has no such file, nor has a machine without this controller."""
    try:
        limit = (group / "memory.max").read_text().strip()
    except OSError:
        return float("inf")
    return float("inf") if limit == "max" else int(limit) / MIB


def _left_in(group: Path) -> float:
    if (limit := _limit_of(group)) == float("inf"):
        return limit
    pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    used = int((group / "memory.current").read_text()) - int(pages["inactive_file"])  # a cache is given back on demand
    return limit - used / MIB


def least_room(places: tuple[Path, ...]) -> tuple[Path, float]:
    """The place on the fullest disk, and how many MiB are free there. One that is yet to be made counts as its parent."""
    found = [(_existing(place), place) for place in places]
    room, place = min((shutil.disk_usage(there).free / MIB, place) for there, place in found)
    return place, room


def _existing(place: Path) -> Path:
    return next(folder for folder in [place.absolute(), *place.absolute().parents] if folder.exists())


def processor_temperatures() -> dict[str, float]:
    """The hottest of each chip that Linux has a driver for; none on WSL2 or macOS."""
    chips = psutil.sensors_temperatures() if hasattr(psutil, "sensors_temperatures") else {}
    return {name: max(one.current for one in found) for name, found in chips.items() if name in CHIPS and found}


@contextmanager
def gpu_temperatures() -> Iterator[Callable[[], dict[str, float]]]:
    """Reads the temperature of each NVIDIA GPU, where pynvml (nvidia-ml-py) and a driver are there."""
    if importlib.util.find_spec("pynvml") is None:
        yield dict
        return
    nvml: Any = importlib.import_module("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:  # no driver
        yield dict
        return
    try:
        handles = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())]
        yield lambda: {f"GPU {index}": _gpu_temperature(nvml, handle) for index, handle in enumerate(handles)}
    finally:
        nvml.nvmlShutdown()


def _gpu_temperature(nvml: Any, handle: Any) -> float:
    try:
        return float(nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU))
    except nvml.NVMLError as error:  # the GPU fell off the bus
        raise OSError(f"a GPU does not tell its temperature: {error}") from error


def _too_much(what: str, wanted: float, margin: float, there: str) -> str:
    return f"it needs about {wanted:,.0f} MiB of {what}, and {margin:,.0f} MiB that stay free; {there}"


def _no_memory(free: float, limits: Limits) -> NexusError:
    message = f"the memory is nearly full: {free:,.0f} MiB are free, {limits.memory_mb:,.0f} MiB are kept free"
    return NexusError(message, "close other programs, or take a smaller --sample-size; then: nexus run (it goes on)")


def _no_room(place: Path, room: float, limits: Limits) -> NexusError:
    message = f"the disk of {place} is nearly full: {room:,.0f} MiB are free, {limits.disk_mb:,.0f} MiB are kept free"
    return NexusError(message, "make room on it; then: nexus run (it goes on)")


def _blind(error: OSError) -> NexusError:
    return NexusError(f"the machine cannot be watched any more ({error})", "see that the run's directory is there")
