"""The student that stands before the gate, put together from what stage 4 made. What was made is never changed by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_core.atomic import sync_directory, sync_tree, write_atomic
from nexus_core.bundle.digest import student_digest
from nexus_core.student.files import ADAPTERS, PART, ROUTER


@dataclass(frozen=True, slots=True)
class Parts:
    """`whole` is a student's directory, `plan` its plan; `adapters` are files that replace those of `whole`, by name.
    `router` None: there is nothing to route between."""

    whole: Path
    plan: Path
    router: Path | None = None
    adapters: Mapping[str, Path] = field(default_factory=dict)


def put_together(parts: Parts, out: Path) -> bool:
    """The student in `out`, whole or not at all; whether `out` was another one before."""
    draft, old = out.with_name(f".{out.name}.draft"), out.with_name(f".{out.name}.old")
    shutil.rmtree(draft, ignore_errors=True)  # what a killed writer left
    shutil.copytree(parts.whole, draft)
    for name, file in parts.adapters.items():
        shutil.copyfile(file, draft / ADAPTERS / f"{name}{PART}")
    if parts.router is not None:
        shutil.copyfile(parts.router, draft / ROUTER)
    shutil.copyfile(parts.plan, draft / "student_arch.json")
    if out.is_dir() and student_digest(out) == student_digest(draft):
        shutil.rmtree(draft)
        return False
    sync_tree(draft)
    shutil.rmtree(old, ignore_errors=True)
    if out.exists():
        out.rename(old)
    draft.rename(out)
    sync_directory(out.parent)
    shutil.rmtree(old, ignore_errors=True)
    return True


def write_summary(path: Path, made: list[Path], router: Path, sizes: Mapping[str, int]) -> None:
    """distill/summary.json from what each training left: the later one of a capability counts."""
    taught: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    for file in made:
        content = json.loads(file.read_bytes())
        taught |= content["taught"]
        for name, spent in content["seconds"].items():
            seconds[name] = round(seconds.get(name, 0.0) + spent, 1)
    ordered = dict(sorted(taught.items(), key=lambda item: float(item[1]["reached"])))
    content = {
        "met": all(found["met"] for found in ordered.values()),
        "capabilities": ordered,
        "parameters": dict(sizes),
        "seconds": seconds,
        "router": json.loads(router.read_bytes()),
    }
    text = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    if not path.is_file() or path.read_bytes() != text:
        write_atomic(path, text)
