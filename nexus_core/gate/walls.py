"""What is off limits for a student's process, and the evidence that it was."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.discovery import package_file
from nexus_core.gate.cell import Watched
from nexus_core.gate.claims import Claim
from nexus_core.gate.guard import Limits
from nexus_core.gate.isolation import JOURNAL
from nexus_core.gate.verdict import FAIL, PASS
from nexus_core.plugins import Plugins
from nexus_core.profiling import OUTPUT
from nexus_core.registry import Registry, resolve_path
from nexus_core.types import Kind

# What a run holds of its teachers: signals, their scores, rows made of both, and students that were taught otherwise.
OF_TEACHERS = ("signals", OUTPUT, "distill", "checkpoints", "study", JOURNAL)
ELSEWHERE = "the network and other processes"


@dataclass(frozen=True, slots=True)
class Walls:
    """`moved` are the contracts' teachers that are on this machine, by id; `absent` those that are not, and why. `paths`
    and `packages` are what may not be opened and imported, and what each is; `places` are teachers' as the registry has
    them."""

    moved: Mapping[str, Path]
    absent: Mapping[str, str]
    places: Mapping[str, str | None]
    paths: Mapping[str, str]
    packages: Mapping[str, str]

    @classmethod
    def around(cls, registry: Registry, plugins: Plugins, run: Path, teachers: Sequence[str]) -> Walls:
        """The walls of a run: its own teachers are moved away, and every other one on this machine is off limits."""
        found = {row.id: resolve_path(row) for row in registry.teachers.values()}
        present = {name: presence.path.absolute() for name, presence in found.items() if presence.path is not None}
        wanted = dict.fromkeys(teachers)
        paths = {str(path): f"the teacher {name}" for name, path in present.items()}
        for name, path in present.items():
            paths |= dict.fromkeys(_linked(path), f"the teacher {name}")
        paths |= {str((run / name).absolute()): f"the run's {name}" for name in OF_TEACHERS}
        packages = {}
        for kind, module, package in _foreign(plugins):
            packages[module] = f"a {kind} plugin"
            if home := package_file(package, "."):
                paths[str(home)] = f"a {kind} plugin"
        return cls(
            {name: present[name] for name in wanted if name in present},
            {
                name: found[name].reason if name in found else "not in the registry"
                for name in wanted
                if name not in present
            },
            {name: registry.teachers[name].path if name in registry.teachers else None for name in wanted},
            paths,
            packages,
        )

    def limits(self, subject: Path) -> Limits:
        """For the guard. The directory around a moved teacher may not be listed: it holds the hidden name."""
        around = {str(path.resolve().parent): "the directory around a teacher" for path in self.moved.values()}
        return Limits(self.paths, around, self.packages, str(subject.resolve()))

    def problems(self, watched: Watched) -> Iterator[str]:
        """Why the isolation did not hold, if it did not."""
        for attempt in watched.tried:
            yield f"the student's process touched {attempt['what']}: {attempt['event']} {attempt['target']}"
        refused = {line["target"] for line in watched.probed}
        if not any(line["event"].startswith("socket.") for line in watched.probed):
            yield "the guard let a socket through before the student was asked"
        opened = watched.testimony.opened if watched.testimony else {}
        for name, path in self.moved.items():
            if str(path) not in refused:
                yield f"the guard let {name} be opened before the student was asked"
            if watched.testimony and opened.get(str(path), "opened") == "opened":
                yield f"{name} could be opened at {path} although it was moved"

    def evidence(self, watched: Watched, claims: Sequence[Claim], problems: Sequence[str]) -> dict[str, Any]:
        """The report's section. Places are written as the registry has them: a bundle names no path of one machine."""
        opened = watched.testimony.opened if watched.testimony else {}
        weights = {claim.teacher: claim.weights for claim in claims}
        absent = {name: f"absent: {_first_words(why)}" for name, why in self.absent.items()}
        said = {name: opened.get(str(path), "not told") for name, path in self.moved.items()} | absent
        teachers = {
            name: {
                "weights_sha256": weights.get(name),
                "place": self.places.get(name),
                "moved": name in self.moved,
                "open": said[name],
            }
            for name in sorted(said)
        }
        return {
            "verdict": FAIL if problems else PASS,
            "reasons": list(problems),
            "teachers": teachers,
            "refused": sorted({*self.paths.values(), *self.packages.values(), ELSEWHERE}),
            "attempts": [dict(attempt) for attempt in watched.tried],
            "modules": list(watched.testimony.modules) if watched.testimony else [],
        }


def _first_words(reason: str) -> str:
    """Without the path that the reason may hold."""
    return " ".join(word for word in reason.split() if os.sep not in word)


def _linked(path: Path) -> Iterator[str]:
    """Where files of a teacher really lie when its directory holds links, as the cache of a hub does."""
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_symlink():
            yield os.path.realpath(file)


def _foreign(plugins: Plugins) -> Iterator[tuple[str, str, str]]:
    """Kind, module and package of each plugin that a student does not need: all but those of towers."""
    towers = {ref.package for ref in plugins.refs if ref.kind is Kind.TOWER}
    for ref in plugins.refs:
        if ref.kind is not Kind.TOWER:
            shared = ref.package in towers
            module = ref.module.partition(":")[0] if shared else ref.package
            yield ref.kind.value, module, "" if shared else ref.package
