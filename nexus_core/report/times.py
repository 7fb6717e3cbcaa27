"""How long it took: stage by stage and unit by unit as `nexus run` told it, and what the artifacts have noted themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.distill.report import SUMMARY
from nexus_core.errors import DataError
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.report.artifacts import Part, absent, is_there, reading
from nexus_core.study.study import FILE, FOLDER
from nexus_core.study.unit import read_json

EVENTS = "events.jsonl"


def times_part(run: Path, profiles: Sequence[CapabilityProfile], trainings: Part) -> Part:
    """`stages` and `units` of the last start; a unit that it found done counts with the seconds that it once took."""
    rows = _noted(run, profiles, trainings)
    events = _last_start(run / EVENTS)
    if not rows and not events:
        return absent("no stage has noted its time")
    with reading(run / EVENTS):
        units = _units(events)
        return {"rows": rows, "units": units, "stages": _stages(events, units)}


def _noted(run: Path, profiles: Sequence[CapabilityProfile], trainings: Part) -> list[Part]:
    rows: list[Part] = [
        {"stage": "profile", "what": f"{p.teacher}/{p.capability}", "seconds": p.seconds} for p in profiles
    ]
    summary = read_json(run / SUMMARY) or {}
    rows += [{"stage": "distill", "what": what, "seconds": s} for what, s in summary.get("seconds", {}).items()]
    if is_there(trainings):
        taught = [t for t in trainings["rows"] if t["seconds"] is not None]
        rows += [{"stage": "training", "what": t["name"], "seconds": t["seconds"]} for t in taught]
    with reading(run / FOLDER / FILE):
        for arm, of in (read_json(run / FOLDER / FILE) or {}).get("arms", {}).items():
            seeds = of["seeds"].items()
            rows += [{"stage": "study", "what": f"{arm}, seed {k}", "seconds": unit["seconds"]} for k, unit in seeds]
    return rows


def _last_start(path: Path) -> list[Mapping[str, Any]]:
    """What was told since the last start. A run that is at work, or was killed, may end in half a line."""
    found: list[Mapping[str, Any]] = []
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        if line.endswith("\n"):
            try:
                event = json.loads(line)
                found = [event] if event["kind"] == "run_started" else [*found, event]
            except (ValueError, LookupError, TypeError) as error:
                raise DataError(f"{path}, line {number} is no event", "delete the file; only times are lost") from error
    return found


def _units(events: Sequence[Mapping[str, Any]]) -> list[Part]:
    stage_of = {unit["unit"]: unit["stage"] for event in events if "plan" in event for unit in event["plan"]}
    stage_of |= {event["unit"]: event["stage"] for event in events if event["kind"] == "unit_started"}
    ended = {event["unit"]: event for event in events if event["kind"] == "unit_ended"}
    rows = [
        {"stage": stage_of.get(name), "unit": name, "seconds": event["seconds"], "reused": bool(event["reused"])}
        for name, event in ended.items()
    ]
    return sorted(rows, key=lambda row: row["stage"] if row["stage"] is not None else len(ended))


def _stages(events: Sequence[Mapping[str, Any]], units: Sequence[Part]) -> list[Part]:
    """`seconds` are of its units, whenever they were done; `now` is how long this start was in the stage."""
    names = {event["stage"]: event["name"] for event in events if event["kind"] == "stage_started"}
    now = {event["stage"]: event["seconds"] for event in events if event["kind"] == "stage_ended"}
    return [
        {
            "stage": stage,
            "name": name,
            "seconds": sum(own) if (own := [u["seconds"] for u in units if u["stage"] == stage]) else now.get(stage),
            "units": len(own),
            "reused": sum(u["reused"] for u in units if u["stage"] == stage),
            "now": now.get(stage),
        }
        for stage, name in sorted(names.items())
    ]
