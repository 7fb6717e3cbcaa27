"""The smaller parts: what was decided and why, the router, sizes and times, and the commands that make all of it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nexus_core.architect.sizes import sizes
from nexus_core.bundle.manifest import MANIFEST, NAME, parse_manifest
from nexus_core.distill.material import SIGNALS, WORK
from nexus_core.distill.report import SUMMARY
from nexus_core.distill.routing_report import NONE
from nexus_core.distill.run import CHECKPOINTS, STUDENT
from nexus_core.errors import DataError
from nexus_core.gate.removal import REPRO
from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.report.artifacts import Part, absent, is_there, reading
from nexus_core.student.arch import ARCH, StudentArch, read_arch
from nexus_core.study.study import FILE, FOLDER
from nexus_core.study.unit import read_json

ACTIONS = ("drop", "merge", "cap", "keep", "add", "map")  # what was lost comes first
STAGES = (
    ("profiles", OUTPUT),
    ("signals", SIGNALS),
    ("checkpoints", CHECKPOINTS.parts[0]),
    ("journals", WORK),
    ("student", STUDENT),
    ("study", FOLDER),
)


def planned(run: Path) -> StudentArch | None:
    """The student's plan, where there is one."""
    return read_arch(run / ARCH) if (run / ARCH).exists() else None


def decisions_part(run: Path, arch: StudentArch | None) -> Part:
    """Every decision of the architect by its kind."""
    if arch is None:
        return absent("the student was not planned", "architect", "--run", run)
    kinds = sorted({d.action for d in arch.decisions}, key=lambda a: (a not in ACTIONS, [*ACTIONS, a].index(a)))
    groups = [
        {"action": kind, "decisions": [{"subject": d.subject, "reason": d.reason} for d in found], "n": len(found)}
        for kind in kinds
        for found in [[d for d in arch.decisions if d.action == kind]]
    ]
    return {"preset": arch.preset, "seed": arch.seed, "backbone": arch.backbone_source, "groups": groups}


def router_part(run: Path) -> Part:
    """What the router does on held-out prompts: a row for what is right, a column for what was chosen."""
    summary = read_json(run / SUMMARY)
    if summary is None:
        return absent("no teaching of the whole student is finished, so no router was taught", "distill", "--run", run)
    with reading(run / SUMMARY):
        router = summary["router"]
        if not router:
            return absent("there was nothing to route between")
        chosen = [*router["classes"], NONE]
        return {
            **{key: router[key] for key in ("n", "accuracy", "calibration_error", "microseconds", "microseconds_p99")},
            "low": router["ci95"][0],
            "high": router["ci95"][1],
            "chosen": chosen,
            "rows": [
                {"right": right, "counts": [row[c] for c in chosen]} for right, row in router["confusion"].items()
            ],
            "foreign": [{"kind": kind, "left": left, "of": of} for kind, (left, of) in router["foreign"].items()],
        }


def sizes_part(run: Path, arch: StudentArch | None, bundle: Path | None) -> Part:
    """Parameters of the plan, bytes on the disk, and the bundle's manifest."""
    rows = [{"what": what, "path": path, **_bytes(run / path)} for what, path in STAGES if (run / path).is_dir()]
    found: Part = {"stages": rows, "parameters": None, "bundle": _bundle(run, bundle)}
    if arch is not None:
        with reading(run / ARCH):
            counted = sizes(arch)
        parts = [*counted.parts.items(), ("total", counted.total)]
        found["parameters"] = [{"part": part, "count": count} for part, count in parts]
    return found


def _bytes(folder: Path) -> dict[str, int]:
    files = [path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {"files": len(files), "bytes": sum(files)}


def _bundle(run: Path, bundle: Path | None) -> Part:
    path = (bundle or run / NAME) / MANIFEST
    if bundle is None and not path.exists():
        return absent("no bundle lies in the run", "bundle", "build", run, "--out", run / NAME)
    try:
        manifest = parse_manifest(path.read_bytes(), str(path))
    except OSError as error:
        raise DataError(f"there is no bundle at {bundle} ({error.strerror})", "name its directory: --bundle") from error
    return {
        "path": str(path.parent),
        "files": len(manifest.files),
        "bytes": sum(facts.bytes for facts in manifest.files.values()),
        "quantisation": manifest.as_json()["quantisation"]["kind"],
        "parts": [{"file": name, "bytes": facts.bytes} for name, facts in sorted(manifest.files.items())],
    }


def times_part(run: Path, profiles: list[CapabilityProfile], trainings: Part) -> Part:
    """Seconds that the run's own files tell, stage by stage."""
    rows = [{"stage": "profile", "what": f"{p.teacher}/{p.capability}", "seconds": p.seconds} for p in profiles]
    summary = read_json(run / SUMMARY) or {}
    rows += [{"stage": "distill", "what": what, "seconds": s} for what, s in summary.get("seconds", {}).items()]
    if is_there(trainings):
        taught = [t for t in trainings["rows"] if t["seconds"] is not None]
        rows += [{"stage": "training", "what": t["name"], "seconds": t["seconds"]} for t in taught]
    with reading(run / FOLDER / FILE):
        for arm, of in (read_json(run / FOLDER / FILE) or {}).get("arms", {}).items():
            seeds = of["seeds"].items()
            rows += [{"stage": "study", "what": f"{arm}, seed {k}", "seconds": unit["seconds"]} for k, unit in seeds]
    return {"rows": rows} if rows else absent("no stage has noted its time")


def commands_part(run: Path, profiles: list[CapabilityProfile], arch: StudentArch | None, retention: Part) -> Part:
    """What was typed, as far as the artifacts tell it: sizes and seeds are theirs, the rest are defaults."""
    found = list(_commands(run, profiles, arch, retention))
    if (repro := read_json(run / REPRO)) is not None and isinstance(command := repro.get("command"), str):
        found.append(["teachers deleted", command])
    return {"rows": [{"why": why, "command": command} for why, command in found]}


def _commands(
    run: Path, profiles: list[CapabilityProfile], arch: StudentArch | None, retention: Mapping[str, Any]
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


def as_text(value: Any) -> str:
    """An output as it can be read: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
