"""Run the student's process: a fresh interpreter in an empty directory, with a clean environment, watched from outside."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from nexus_core.atomic import writing
from nexus_core.errors import DataError
from nexus_core.gate.job import Job, Testimony, read_testimony, write_job
from nexus_core.printable import one_line

Say = Callable[[str], None]
# What Python, its threads and a GPU need, and nothing that could carry a path or a proxy.
KEPT = frozenset({"PATH", "LANG", "LC_ALL", "SYSTEMROOT", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"})
KEPT |= {"OMP_NUM_THREADS", "MKL_NUM_THREADS"}
OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True, slots=True)
class Watched:
    """What came of the process. `tried` is what it touched although it was off limits; `probed` are its own probes of the
    guard, before anything of the student was there; `failure` is why there are no answers."""

    testimony: Testimony | None
    tried: tuple[Mapping[str, str], ...]
    probed: tuple[Mapping[str, str], ...]
    failure: str


def watch(job: Job, minutes: float, say: Say) -> Watched:
    """Run the job, at most so long. Whatever happens, no process is left."""
    with writing(Path(tempfile.gettempdir())), tempfile.TemporaryDirectory(prefix="nexus-gate-") as scratch:
        folder = Path(scratch)
        job = replace(job, result=folder / "result.json")
        write_job(job, folder / "job.json")
        with (folder / "stderr").open("wb") as errors:
            lines, status = _run(folder, errors.fileno(), minutes, say)
        probed, tried = _before_and_after(lines)
        done = any("done" in line for line in lines)
        try:
            if not done or status:
                raise DataError(_how_it_ended(status, minutes, (folder / "stderr").read_text("utf-8", "replace")))
            return Watched(read_testimony(job.result), tried, probed, "")
        except DataError as error:
            return Watched(None, tried, probed, error.message)


def _run(folder: Path, errors: int, minutes: float, say: Say) -> tuple[list[dict[str, Any]], int | None]:
    """What it told, line by line, and its exit status; None where its time was over."""
    read, write = os.pipe()
    home = folder / "home"
    home.mkdir()
    here = {"HOME": str(home), "TMPDIR": str(home), "TEMP": str(home)}
    command = [sys.executable, "-I", "-m", "nexus_core.gate.inmate", str(folder / "job.json"), str(write)]
    over, ended = threading.Event(), threading.Event()
    try:
        process = subprocess.Popen(
            command,
            env={name: os.environ[name] for name in sorted(KEPT & set(os.environ))} | OFFLINE | here,
            cwd=home,
            stdin=subprocess.PIPE,  # ends with this process, and the other one with it
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=(write,),
        )
    finally:
        os.close(write)
    timer = threading.Thread(target=_limit, args=(process, minutes * 60, over, ended), daemon=True)
    timer.start()
    try:
        with os.fdopen(read, encoding="utf-8", errors="replace") as pipe:
            lines = [line for text in pipe if (line := _line(text, say)) is not None]
        status = process.wait()
    finally:
        ended.set()
        process.kill()
        process.communicate()
        timer.join()
    return lines, None if over.is_set() else status


def _limit(process: subprocess.Popen[bytes], seconds: float, over: threading.Event, ended: threading.Event) -> None:
    """Kill it when it has had so much time, and say so in `over`. A process that is paused has none meanwhile."""
    tick = min(1.0, seconds / 10)
    while seconds > 0:
        if ended.wait(tick):
            return
        with suppress(psutil.Error):  # it has just ended
            seconds -= 0 if psutil.Process(process.pid).status() == psutil.STATUS_STOPPED else tick
    over.set()
    process.kill()


def _line(text: str, say: Say) -> dict[str, Any] | None:
    """One thing that it told. Progress is said and forgotten; what is no line of ours counts as an attempt to be one."""
    try:
        line = json.loads(text)
        if "task" in line:
            say(f"{one_line(str(line['task']), 80)}: {int(line['done'])} of {int(line['of'])}")
            return None
    except (ValueError, LookupError, TypeError):
        return {"event": "pipe", "target": one_line(text, 200), "what": "the pipe to the gate"}
    return line if isinstance(line, dict) else None


def _before_and_after(
    lines: list[dict[str, Any]],
) -> tuple[tuple[Mapping[str, str], ...], tuple[Mapping[str, str], ...]]:
    """Refusals before the line that says that everything stands, and those after it."""
    ready = next((i for i, line in enumerate(lines) if "ready" in line), len(lines))
    refused = [
        (i, {name: one_line(str(line.get(name, "")), 400) for name in ("event", "target", "what")})
        for i, line in enumerate(lines)
        if "event" in line
    ]
    return tuple(line for i, line in refused if i < ready), tuple(line for i, line in refused if i > ready)


def _how_it_ended(status: int | None, minutes: float, said: str) -> str:
    if status is None:
        return f"the student's process did not end in {minutes:g} minutes"
    last = [line for line in said.splitlines() if line.strip()][-1:]
    reason = f": {one_line(last[0], 300)}" if last else ""
    return f"the student's process ended with status {status}{reason}"
