"""Forget a run: what `nexus run` has made goes, and nothing else."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from nexus_core.gate.isolation import restore
from nexus_core.pipeline.events import EVENTS
from nexus_core.pipeline.units import UNITS, Ledger
from nexus_core.profiling import OUTPUT

# Below RUN. What a run leaves outside of it, a bundle, is known from its record.
MADE = (
    OUTPUT,
    "signals",
    "unable",
    "architect",
    "checkpoints",
    "distill",
    "student",
    "verify",
    "student_arch.json",
    "verify_report.json",
    "scope.json",
    "registry_report.json",
    "retention_contracts.json",
    "report.html",
    "report.json",
    EVENTS,
    UNITS,
)


class _Any:
    """Records alone decide."""

    def is_done(self, unit: str, digest: str) -> bool:
        return True

    def done(self, unit: str, digest: str) -> None:
        raise AssertionError("a reset does nothing")


def reset_run(run: Path) -> Iterator[str]:
    """Delete what the run has made, and say it line by line. A directory that no run was in is left alone."""
    if not (run / UNITS).is_dir():
        yield f"nothing to delete: no run was in {run}"
        return
    restore(run)  # a teacher that a killed gate left hidden is no artifact
    yield from _bundle(run)
    for name in MADE:
        path = run / name
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.exists() or path.is_symlink():
            path.unlink()
        else:
            continue
        yield f"deleted: {path}"


def _bundle(run: Path) -> Iterator[str]:
    """The bundle, if it is the very one that the run wrote."""
    record = Ledger(run, _Any()).record("bundle")
    if record is None or not record.outputs:
        return
    manifest = next((run / path for path in record.outputs if Path(path).name == "manifest.json"), None)
    if manifest is None or not manifest.is_file():
        return
    folder = manifest.parent
    if Ledger(run, _Any()).damaged_files("bundle"):
        yield f"kept: {folder} is no longer the bundle that this run wrote"
        return
    shutil.rmtree(folder)
    yield f"deleted: {folder}"
