"""What one adapter's training leaves to read: steps.jsonl, TensorBoard event files, summary.json.

A line of steps.jsonl is a step, or has the key "event" (rollback, evaluation, check, ...). Both kinds of file only grow,
so a checkpoint notes their lengths, and whoever resumes from it cuts what came later: no step is there twice, none is
missing, in either of them.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from nexus_core.atomic import make_directory, write_atomic, writing

STEPS = "steps.jsonl"
SUMMARY = "summary.json"
_EVENTS = "events.out.tfevents.*"
_BUFFER = 1 << 16  # bytes: several hundred steps go to the disk at once


class Journal:
    """Open for one training. `marks` of an earlier one cut the files back to where it was."""

    def __init__(self, folder: Path, marks: Mapping[str, Any] | None = None) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        self.folder = folder
        make_directory(folder)
        with writing(folder):
            self.cut = _cut_back(folder, marks or {})
            self._steps: IO[str] = (folder / STEPS).open("a", encoding="utf-8", buffering=_BUFFER)
            # Its own thread writes; flushing is ours to decide, with the checkpoint's.
            self._board = SummaryWriter(str(folder), max_queue=1000, flush_secs=3600)

    def step(self, step: int, values: Mapping[str, float]) -> None:
        """One step's numbers. A name with a slash ("anchor/2") is grouped by TensorBoard."""
        self._write({"step": step, **values})
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def event(self, event: str, step: int, **values: Any) -> None:
        """Something that is not a step. Its numbers are drawn too."""
        self._write({"event": event, "step": step, **values})
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"{event}/{name}", value, step)

    def marks(self) -> dict[str, Any]:
        """Everything so far is on the disk; the lengths of the files there."""
        with writing(self.folder):
            self._steps.flush()
            os.fsync(self._steps.fileno())
            self._board.flush()
        return {path.name: path.stat().st_size for path in _files(self.folder)}

    def close(self) -> None:
        """Write what is buffered."""
        with writing(self.folder):
            self._steps.close()
            self._board.close()

    def _write(self, row: Mapping[str, Any]) -> None:
        with writing(self.folder):
            self._steps.write(json.dumps(finite(row), allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite is written as a word."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def write_summary(folder: Path, summary: Mapping[str, Any]) -> None:
    """The outcome, whole or not at all."""
    make_directory(folder)
    content = json.dumps(finite(summary), indent=2, sort_keys=True, allow_nan=False)
    write_atomic(folder / SUMMARY, (content + "\n").encode())


def _files(folder: Path) -> list[Path]:
    return [folder / STEPS, *sorted(folder.glob(_EVENTS))]


def _cut_back(folder: Path, marks: Mapping[str, Any]) -> list[str]:
    """Cut every file to its mark, drop those without one. Returns the names of files that are shorter than their mark."""
    short = [name for name in marks if not (folder / name).exists()]
    for path in _files(folder):
        if not path.exists():
            continue
        mark = int(marks.get(path.name, 0))
        size = path.stat().st_size
        if size < mark:
            short.append(path.name)
        elif mark == 0:
            path.unlink()
        else:
            os.truncate(path, mark)
    return sorted(short)
