"""What the process of the student may not touch: teachers, the teaching run, the network, other processes.

An audit hook sees what Python code opens, lists, connects to, starts and imports, refuses what is off limits, and tells
the parent at once, through a pipe: what was tried stays tried, whatever the code that tried it makes of the refusal. A hook
cannot be taken out again. It does not see what a native library opens by itself; against that stands that the teachers
are not where they were, and that their hidden place cannot be looked up.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.registry.hiding import MARK

FILES = ("open", "os.", "shutil.", "glob.", "pathlib.", "sqlite3.connect", "ctypes.dlopen", "tempfile.")
LISTINGS = ("os.listdir", "os.scandir", "os.walk", "os.fwalk")
PROCESSES = frozenset(
    {
        "os.exec",
        "os.fork",
        "os.forkpty",
        "os.posix_spawn",
        "os.spawn",
        "os.startfile",
        "os.system",
        "pty.spawn",
        "subprocess.Popen",
        "_winapi.CreateProcess",
    }
)
LONGEST = 400  # characters of a target: a line of the pipe has to be shorter than what is written as one (4096 bytes)


class Refused(PermissionError):
    """What the student's process is told when it touches what is off limits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`paths` and everything below each; `listings` alone may not be listed; `packages` may not be imported. The values say
    what is there. `allowed` is below one of the paths and not off limits."""

    paths: Mapping[str, str]
    listings: Mapping[str, str]
    packages: Mapping[str, str]
    allowed: str


class Guard:
    """Refuses from `install` on, and for as long as the process lives."""

    def __init__(self, limits: Limits, pipe: int) -> None:
        self._paths = {_real(path): what for path, what in limits.paths.items()} | dict(limits.paths)
        self._listings = {_real(path): what for path, what in limits.listings.items()}
        self._packages = dict(limits.packages)
        self._allowed = _real(limits.allowed)
        self._pipe = pipe

    def install(self) -> None:
        sys.addaudithook(self._see)

    def tell(self, **line: Any) -> None:
        """One line to the parent. A pipe that is gone ends the process: nobody would believe it any more."""
        try:
            os.write(self._pipe, (json.dumps(line) + "\n").encode())
        except OSError:
            os._exit(70)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event.startswith("socket.") and event != "socket.gethostname":
            self._refuse(event, str(arguments[1:]), "the network")
        elif event in PROCESSES:
            self._refuse(event, str(arguments[0]) if arguments else "", "another process")
        elif event == "import":
            self._see_import(str(arguments[0]))
        elif event.startswith(FILES):
            self._see_files(event, arguments)

    def _see_import(self, name: str) -> None:
        for package, what in self._packages.items():
            if name == package or name.startswith(f"{package}."):
                self._refuse("import", name, what)

    def _see_files(self, event: str, arguments: tuple[Any, ...]) -> None:
        for argument in arguments[:2]:  # no event has a path behind its second argument
            if event in LISTINGS and isinstance(argument, int | None):
                argument = "." if argument is None else _open_file(str(argument))
            if isinstance(argument, str | bytes | os.PathLike):
                self._see_path(event, os.fsdecode(argument))

    def _see_path(self, event: str, path: str) -> None:
        if MARK in path:
            self._refuse(event, path, "a hidden teacher")
        lying = {os.path.abspath(path), _real(path)}  # noqa: PTH100 - as written, and behind its links
        if not os.path.isabs(path):  # noqa: PTH117 - it may be meant from any of them: no event tells a `dir_fd`
            lying |= {_real(os.path.join(folder, path)) for folder in _open_folders()}  # noqa: PTH118 - as above
        for place in lying:
            if event in LISTINGS and place in self._listings:
                self._refuse(event, path, self._listings[place])
            if _is_below(place, self._allowed):
                continue
            for wall, what in self._paths.items():
                if _is_below(place, wall):
                    self._refuse(event, path, what)

    def _refuse(self, event: str, target: str, what: str) -> None:
        self.tell(event=event, target=target[:LONGEST], what=what)
        raise Refused(f"{what} is out of reach here: {event} {target[:LONGEST]}")


def _is_below(path: str, wall: str) -> bool:
    return path == wall or path.startswith(wall.rstrip(os.sep) + os.sep)


def _real(path: str) -> str:
    return os.path.realpath(path)


def _open_folders() -> list[str]:
    """Those that this process holds open, where the system tells."""
    try:
        files = [_open_file(descriptor.name) for descriptor in Path("/proc/self/fd").iterdir()]
    except FileNotFoundError:
        return []
    return [file for file in files if file and os.path.isdir(file)]  # noqa: PTH112 - of text


def _open_file(descriptor: str) -> str | None:
    """The path of an open file, where the system tells."""
    try:
        return str(Path(f"/proc/self/fd/{descriptor}").readlink())
    except OSError:
        return None
