"""What the student kept, beside what does without teaching: from the gate's report, or else from the training's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus_core.bundle.digest import student_digest
from nexus_core.distill.report import SUMMARY
from nexus_core.distill.run import STUDENT
from nexus_core.gate import REPORT, check_report, read_report
from nexus_core.registry import Registry
from nexus_core.report.artifacts import Part, absent, reading, share
from nexus_core.study.study import FILE, FOLDER
from nexus_core.study.unit import read_json

KEPT = (
    "teacher",
    "metric",
    "direction",
    "benchmark",
    "teacher_score",
    "student_score",
    "ratio",
    "n",
    "retain_fraction",
    "minimum",
    "verdict",
    "reason",
)


def retention(run: Path, registry: Registry | None) -> Part:
    """Worst capability first, as the report has them. `registry`: what the report's contracts are compared with."""
    study = read_study(run)
    if (run / REPORT).exists():
        return _verified(run, registry, study)
    if (summary := read_json(run / SUMMARY)) is not None:
        with reading(run / SUMMARY):
            return _taught(summary, study)
    return absent("the student was not verified", "verify", "--run", run)


def read_study(run: Path) -> Mapping[str, Any]:
    """study.json; nothing where no study was made."""
    return read_json(run / FOLDER / FILE) or {}


def _verified(run: Path, registry: Registry | None, study: Mapping[str, Any]) -> Part:
    report = read_report(run / REPORT)
    with reading(run / REPORT):
        student = run / STUDENT
        now = student_digest(student) if student.is_dir() else None
        problems = [] if registry is None else check_report(report, registry, now)
        rows = [
            {
                "capability": name,
                **{key: row[key] for key in KEPT},
                "low": row["ci95"] and row["ci95"][0],
                "high": row["ci95"] and row["ci95"][1],
                "controls": list(_controls(name, row, report.body["controls"].get(name), study)),
            }
            for name, row in report.capabilities.items()
        ]
        return {
            "source": REPORT,
            "verdict": report.verdict,
            "reasons": list(report.body["reasons"]),
            "gaps": list(report.body["gaps"]),
            "problems": problems,
            "isolation": report.body["isolation"]["verdict"],
            "out_of_reach": sorted(n for n, t in report.body["isolation"]["teachers"].items() if t["moved"]),
            "subject_sha256": report.subject_sha256,
            "student": _same(now, report.subject_sha256),
            "seed": report.body["seed"],
            "samples": report.body["settings"]["samples"],
            "returns": [row for attempt in report.body["attempts"] for row in _returns(attempt)],
            **_count(rows),
            "rows": rows,
        }


def _count(rows: Sequence[Part]) -> Part:
    return {"kept": sum(row["verdict"] == "pass" for row in rows), "of": len(rows)}


def _returns(attempt: Mapping[str, Any]) -> Iterator[Part]:
    """Each adapter that went back: to be taught on (stage 4), or to be given more room before (stage 3)."""
    place = {"attempt": attempt["attempt"], "stage": attempt.get("stage", 4)}
    for row in attempt["adapters"]:
        figures = {key: row[key] for key in ("capability", "missed", "steps", "profile_score")}
        yield {**place, **figures, "note": row.get("grown", "")}
    if "failed" in attempt:
        none = dict.fromkeys(("missed", "steps", "profile_score"))
        yield {**place, "capability": "", **none, "note": attempt["failed"]}


def _same(now: str | None, then: str) -> str:
    if now is None:
        return "the student is no longer in the run"
    return "the student in the run is the one that was verified" if now == then else "the student was changed since"


def _controls(
    name: str, row: Mapping[str, Any], control: Mapping[str, Any] | None, study: Mapping[str, Any]
) -> Iterator[Part]:
    teacher = row["teacher_score"]
    if control is not None:
        plain = control["backbone"]
        yield _control("no adapter", plain["score"], share(plain["score"], plain["teacher_score"]), plain["n"])
        for baseline, score in control["baselines"].items():
            yield _control(f"baseline {baseline}", score, share(score, teacher), row["n"])
    if (untaught := _untaught(name, study)) is not None:
        yield untaught
    elif control is not None and control["no_teacher"]:
        seeds = control["no_teacher"]["seeds"].values()
        mean = sum(seed["score"] for seed in seeds) / len(seeds)
        yield _control("no teacher", mean, share(mean, teacher), min(seed["n"] for seed in seeds))


def _control(name: str, score: float, ratio: float | None, n: int, low: Any = None, high: Any = None) -> Part:
    return {"name": name, "score": score, "ratio": ratio, "n": n, "low": low, "high": high}


def _untaught(name: str, study: Mapping[str, Any]) -> Part | None:
    """The study's arm without a teacher, over its seeds."""
    arm = study.get("arms", {}).get("no_teacher", {})
    score, kept = arm.get("score", {}).get(name), arm.get("retained", {}).get(name)
    if score is None:
        return None
    of = kept or {"value": None, "low": None, "high": None}
    return _control("no teacher", score["value"], of["value"], study["samples"], of["low"], of["high"])


def _taught(summary: Mapping[str, Any], study: Mapping[str, Any]) -> Part:
    """What stage 4 measured on the profile split: its interval is the score's, here as a share of the teacher's."""
    rows = [
        {
            "capability": name,
            **dict.fromkeys(KEPT),
            "teacher_score": found["teacher"],
            "student_score": found["score"],
            "ratio": found["retention"],
            "low": share(found["low"], found["teacher"]),
            "high": share(found["high"], found["teacher"]),
            "n": found["n"],
            "retain_fraction": share(found["goal"], found["teacher"]),
            "verdict": "pass" if found["met"] else "fail",
            "reason": "" if found["met"] else f"its goal is {found['goal']:.4f}",
            "controls": [control] if (control := _untaught(name, study)) else [],
        }
        for name, found in summary["capabilities"].items()
    ]
    nothing: Part = {name: [] for name in ("reasons", "gaps", "problems", "returns")}
    return {"source": SUMMARY, "verdict": "not verified", **nothing, **_count(rows), "rows": rows}


def study_part(run: Path) -> Part:
    """The arms of the study, by what each keeps."""
    study = read_study(run)
    if not study:
        return absent("the method was not compared with its controls", "study", "--run", run)
    with reading(run / FOLDER / FILE):
        rows = [
            {"arm": arm, "title": of["title"], "capability": name, "score": score, "retained": kept}
            for arm, of in study["arms"].items()
            for name, score in of.get("score", {}).items()
            for kept in [of["retained"].get(name)]
        ]
        facts = {key: study[key] for key in ("steps", "seeds", "samples", "verdict", "notes")}
        return {**facts, "rows": rows}
