"""The student in other forms: in fewer bits, as the gate found it again, and the exports that lie in RUN/exports."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from nexus_core.bundle.manifest import MANIFEST, NAME
from nexus_core.gate import REPORT, read_report
from nexus_core.report.artifacts import Part, absent, reading
from nexus_core.study.unit import read_json

EXPORTS, EXPORT_REPORT = "exports", "export_report.json"


def forms_part(run: Path, bundle: Path | None) -> Part:
    """Each with its scores beside the teacher's."""
    variants = _variants(run) if (run / REPORT).exists() else []
    manifest = (bundle or run / NAME) / MANIFEST
    own = sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None
    exports = [_export(path, own) for path in sorted((run / EXPORTS).glob(f"*/{EXPORT_REPORT}"))]
    if not variants and not exports:
        words = "bundle", "build", run, "--out", run / f"{NAME}_nf4", "--quantise", "nf4"
        return absent(f"the student was not stored in fewer bits, and no export lies in {run / EXPORTS}", *words)
    return {"variants": variants, "exports": exports}


def _variants(run: Path) -> list[Part]:
    report = read_report(run / REPORT)
    with reading(run / REPORT):
        return [
            {
                "form": kind,
                "verdict": variant["verdict"],
                "note": "; ".join(variant.get("reasons", ())),
                "rows": [
                    {
                        "capability": name,
                        "asked": "",
                        **{key: row[key] for key in ("teacher_score", "ratio", "n", "verdict")},
                        "score": row["student_score"],
                        "low": row["ci95"] and row["ci95"][0],
                        "high": row["ci95"] and row["ci95"][1],
                    }
                    for name, row in variant["capabilities"].items()
                ],
            }
            for kind, variant in report.body["variants"].items()
        ]


def _export(path: Path, own: str | None) -> Part:
    told = read_json(path) or {}
    with reading(path):
        notes = [] if own == told["bundle_sha256"] else ["made of another bundle than the one that lies here"]
        notes += [f"{line['capability']}: {line['reason']}" for line in told["lines"] if line["reason"]]
        return {
            "form": f"{told['to']}, {told['dtype']}",
            "place": f"{EXPORTS}/{path.parent.name}",
            "verdict": told["verdict"],
            "tried_with": told["tried_with"],
            "note": "; ".join(notes),
            "rows": [_line(line) for line in told["lines"]],
        }


def _line(line: Mapping[str, Any]) -> Part:
    return {
        **{key: line[key] for key in ("capability", "asked", "teacher_score", "n", "score", "same_answers")},
        "ratio": line["ratio_to_teacher"],
        "verdict": "pass" if line["kept"] else "fail",
    }
