"""Replace many files at once: after a crash anywhere, a reader finds all of the old ones or all of the new ones.

A redo log. New contents are staged in `.pending/`, then `commit.json` says where each belongs: from that rename on the
change is certain. Moving the files to their places can be repeated, so whoever opens the directory next finishes it.
Staged files without `commit.json` are what a killed writer left, and are discarded.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nexus_core.atomic import sync_directory, write_atomic
from nexus_core.profiling.artifacts.layout import MANIFEST, ArtifactError, locate

PENDING = ".pending"
COMMIT = "commit.json"


def commit(root: Path, write: Mapping[str, bytes], remove: Collection[str] = ()) -> None:
    """Write and remove these artifacts, all or none. The caller holds the lock of the directory."""
    recover(root)
    pending = root / PENDING
    pending.mkdir(parents=True)
    order = sorted(write, key=lambda path: (path == MANIFEST, path))  # the manifest last
    for number, path in enumerate(order):
        locate(root, path)
        write_atomic(pending / str(number), write[path])
    plan = {"write": order, "remove": sorted(remove)}
    write_atomic(pending / COMMIT, json.dumps(plan).encode())
    recover(root)


def pending(root: Path) -> bool:
    """Whether a writer left something to finish or to discard."""
    return (root / PENDING).exists()


def recover(root: Path) -> None:
    """Finish a change that was committed, discard one that was not."""
    folder = root / PENDING
    if folder.is_symlink():
        raise ArtifactError(f"{folder} is a symbolic link", "remove the link")
    if not folder.exists():
        return
    if (folder / COMMIT).exists():
        _apply(root, folder, _read_plan(folder / COMMIT))
        (folder / COMMIT).unlink()
        sync_directory(folder)
    shutil.rmtree(folder)


def _apply(root: Path, folder: Path, plan: dict[str, list[str]]) -> None:
    touched = set()
    for path in plan["remove"]:
        target = locate(root, path)
        target.unlink(missing_ok=True)
        touched.add(target.parent)
    for number, path in enumerate(plan["write"]):
        staged, target = folder / str(number), locate(root, path)
        if staged.is_file() and not staged.is_symlink():  # else it was moved before the crash
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(staged, target)
            touched.add(target.parent)
    for parent in touched:
        if parent.exists():
            sync_directory(parent)


def _read_plan(path: Path) -> dict[str, list[str]]:
    try:
        plan: Any = json.loads(path.read_text("utf-8"))
        lists = [plan["write"], plan["remove"]]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged", f"remove {path.parent} and profile again") from error
    if not all(isinstance(some, list) and all(isinstance(name, str) for name in some) for some in lists):
        raise ArtifactError(f"{path} is damaged", f"remove {path.parent} and profile again")
    return {"write": plan["write"], "remove": plan["remove"]}
