"""What stage 4 leaves to read: how each capability came out, and what the student is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.atomic import make_directory, write_atomic
from nexus_core.distill.journal import finite
from nexus_core.distill.run import Taught
from nexus_core.errors import DataError

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
        """Worst capability first. Strict JSON: what is no number is a word."""
        found = {t.capability: {**t.measured, "met": t.met, "trainings": list(t.trainings)} for t in self.taught}
        content: dict[str, Any] = finite(
            {
                "met": self.met,
                "capabilities": _worst_first(found),
                "parameters": self.sizes,
                "seconds": self.seconds,
                "router": self.router,
            }
        )
        return content

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


def write_report(run: Path, report: DistillReport, alone: bool = False) -> None:
    """`distill/summary.json`. Where one adapter was taught `alone`, the other capabilities and the router are kept."""
    path = run / SUMMARY
    content = report.as_json()
    if alone and path.exists():
        before = _read(path)
        content["capabilities"] = _worst_first({**before["capabilities"], **content["capabilities"]})
        content["met"] = all(found["met"] for found in content["capabilities"].values())
        content["router"] = before["router"]
    make_directory(path.parent)
    write_atomic(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def _worst_first(capabilities: Mapping[str, Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return dict(sorted(capabilities.items(), key=lambda item: float(item[1]["reached"])))


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_bytes())
        return {"capabilities": dict(found["capabilities"]), "router": found["router"]}
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} is no summary of a distillation ({error!r})", "delete it") from error


def router_lines(router: Mapping[str, Any]) -> tuple[str, list[str], list[list[str]]]:
    """What the router does on held-out prompts: a sentence, and its confusion matrix as headers and rows."""
    low, high = router["ci95"]
    alone = sum(left for left, _ in router["foreign"].values())
    of = sum(total for _, total in router["foreign"].values())
    said = (
        f"router: {router['accuracy']:.3f} right of {router['n']} held-out prompts ({low:.3f} to {high:.3f}), "
        f"{router['microseconds']:.0f} us each; {alone} of {of} foreign texts left to the plain backbone"
    )
    chosen = list(next(iter(router["confusion"].values())))
    rows = [[name, *(str(row[column]) for column in chosen)] for name, row in router["confusion"].items()]
    return said, ["prompts of", *chosen], rows
