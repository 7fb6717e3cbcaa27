"""What stage 4 leaves to read: how each capability came out, and what the student is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.atomic import write_atomic
from nexus_core.distill.journal import finite
from nexus_core.distill.run import Taught

SUMMARY = "distill/summary.json"


@dataclass(frozen=True, slots=True)
class DistillReport:
    """`sizes` are parameters by part; `router` what the router does on held-out prompts, None if it was not taught."""

    taught: tuple[Taught, ...]
    sizes: Mapping[str, int]
    seconds: Mapping[str, float]
    router: Mapping[str, Any] | None = None

    @property
    def met(self) -> bool:
        return all(taught.met for taught in self.taught)

    def as_json(self) -> dict[str, Any]:
        """Worst capability first."""
        order = sorted(self.taught, key=lambda taught: float(taught.measured["reached"]))
        return {
            "met": self.met,
            "capabilities": {t.capability: {**t.measured, "met": t.met, "trainings": list(t.trainings)} for t in order},
            "parameters": dict(self.sizes),
            "seconds": dict(self.seconds),
            "router": self.router,
        }

    def rows(self) -> list[Sequence[str]]:
        """For a table: capability, teacher, student, retained, interval of the score, n, contract."""
        return [
            (
                name,
                f"{found['teacher']:.3f}",
                f"{found['score']:.3f}",
                f"{found['retention']:.3f}",
                f"{found['low']:.3f} to {found['high']:.3f}",
                str(found["n"]),
                "met" if found["met"] else f"missed (goal {found['goal']:.3f})",
            )
            for name, found in self.as_json()["capabilities"].items()
        ]


COLUMNS = ("capability", "teacher", "student", "retained", "95 % interval", "n", "contract")


def write_report(run: Path, report: DistillReport) -> None:
    """`distill/summary.json`; a run of one adapter replaces that capability's entry and keeps the others."""
    path = run / SUMMARY
    content = report.as_json()
    if path.exists():
        before = json.loads(path.read_bytes()).get("capabilities", {})
        content["capabilities"] = {**before, **content["capabilities"]}
        content["met"] = all(found["met"] for found in content["capabilities"].values())
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(finite(content), indent=2, allow_nan=False) + "\n").encode())
