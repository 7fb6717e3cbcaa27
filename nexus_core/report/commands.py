"""What makes the run again: the one command, where `nexus run` made it, and those of its stages."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.bundle.manifest import MANIFEST, NAME
from nexus_core.distill.material import WORK
from nexus_core.gate.removal import REPRO
from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.report.artifacts import Part, is_there, reading
from nexus_core.student.arch import StudentArch
from nexus_core.study.study import FILE, FOLDER
from nexus_core.study.unit import read_json

SCOPE = "scope.json"


def commands_part(run: Path, profiles: Sequence[CapabilityProfile], arch: StudentArch | None, retention: Part) -> Part:
    """What was typed, as far as the artifacts tell it: sizes and seeds are theirs, the rest are defaults."""
    found = list(_commands(run, profiles, arch, retention))
    if (repro := read_json(run / REPRO)) is not None and isinstance(command := repro.get("command"), str):
        found.append(["teachers deleted", command])
    return {"run": _whole(run), "rows": [{"why": why, "command": command} for why, command in found]}


def _whole(run: Path) -> Part | None:
    """Every option of the run, also where it is a default: defaults may change. None where `nexus run` did not make it."""
    if (scope := read_json(run / SCOPE)) is None:
        return None
    with reading(run / SCOPE):
        words = [word for name, value in scope["options"].items() for word in _flag(name, value)]
        plugins = [f"{name}: {version}" for name, version in scope["plugins"].items()]
        return {
            "command": shlex.join(["nexus", "run", *words]),
            "registry": scope["registry"]["sha256"],
            "plugins": plugins,
        }


def _flag(name: str, value: Any) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or value in ([], {}, ""):
        return []
    if isinstance(value, Mapping):
        return [word for key, one in value.items() for word in (flag, f"{key}={one}")]
    return [flag, ",".join(map(str, value)) if isinstance(value, list) else str(value)]


def _commands(
    run: Path, profiles: Sequence[CapabilityProfile], arch: StudentArch | None, retention: Mapping[str, Any]
) -> Iterator[list[str]]:
    store = ProfileStore(run / OUTPUT)
    for p in profiles:
        size = str(p.n - len(p.verify_outputs))
        named = ["profile", "--teacher", p.teacher, "--capability", p.capability, "--sample-size", size]
        reference = store.reference(p.teacher, p.capability)
        gate = ["--gate-samples", str(reference.n if reference else 0)]
        yield _typed("profile", *named, *gate, "--seed", str(p.seed), "--run", run)
    if arch is not None:
        wanted = [word for adapter in arch.adapters for word in ("--capability", adapter.capability)]
        backbone = ["--backbone", arch.backbone_source]
        named = ["architect", "--preset", arch.preset, *wanted, *backbone, "--seed", str(arch.seed), "--run", str(run)]
        yield _typed("plan", *named)
    if (run / WORK).is_dir():
        yield _typed("teach", "distill", "--run", run)
    if is_there(retention) and "samples" in retention:
        yield _typed("verify", "verify", "--samples", str(retention["samples"]), "--run", run)
    if (study := read_json(run / FOLDER / FILE)) is not None:
        with reading(run / FOLDER / FILE):
            given = [word for key in ("steps", "seeds", "samples") for word in (f"--{key}", str(study[key]))]
            yield _typed("compare", "study", *given, "--run", run)
    if (run / NAME / MANIFEST).exists():
        yield _typed("bundle", "bundle", "build", run, "--out", run / NAME)
    yield _typed("report", "report", run)


def _typed(why: str, *words: str | Path) -> list[str]:
    return [why, shlex.join(["nexus", *map(str, words)])]
