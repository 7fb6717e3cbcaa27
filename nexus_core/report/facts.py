"""The smaller parts: what was decided and why, the router, and sizes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nexus_core.architect.sizes import sizes
from nexus_core.bundle.manifest import MANIFEST, NAME, parse_manifest
from nexus_core.distill.material import SIGNALS, WORK
from nexus_core.distill.report import SUMMARY
from nexus_core.distill.routing_report import NONE
from nexus_core.distill.run import CHECKPOINTS, STUDENT
from nexus_core.errors import DataError
from nexus_core.profiling import OUTPUT
from nexus_core.report.artifacts import Part, absent, reading
from nexus_core.student.arch import ARCH, StudentArch, read_arch
from nexus_core.study.study import FOLDER
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


def as_text(value: Any) -> str:
    """An output as it can be read: text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
