"""A run with everything in it that a report reads: a real student that answers, made-up figures around it, hostile texts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.export.card import ExportReport, Line
from nexus_core.cli.context import open_plugins
from nexus_core.distill.journal import write_summary
from nexus_core.distill.report import DistillReport, write_report
from nexus_core.distill.run import Taught
from nexus_core.gate.report import signed
from nexus_core.gate.report import write_report as write_verified
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.draw import draw_samples
from nexus_core.profiling.model import PerturbationResult, VerifyOutput
from nexus_core.student.arch import ARCH, Decision, StudentArch, write_arch
from nexus_core.student.files import Student, write_student

HOSTILE = "</pre><script>alert(1)</script><img src=x onerror=alert(2)>"
BROKEN = "half \ud800, a bell \x07 and an escape \x1b[31m"
SEED, SIZE, TOLD = 42, 24, 12  # of the profile; TOLD samples of it have the teacher's answers
CAPABILITIES = {"letters": "ada", "errors": "bob"}


def build(run: Path, world: ModuleType, made: ModuleType) -> None:
    """`world` is tests/gate/gate_world.py, whose capability pack is installed; `made` is made_profile.py."""
    run.mkdir(parents=True)
    arch = plan(world)
    write_arch(run / ARCH, arch)
    write_student(run / "student", Student(world.taught_student(arch), world.tokenizer(), arch))
    put_profiles(run, made)
    put_trainings(run)
    put_report(run)
    put_study(run)
    put_exports(run)
    put_start(run)


def plan(world: ModuleType) -> StudentArch:
    decisions = (
        Decision("keep", "ada/letters", "exact 1, 3 components proven"),
        Decision("cap", "ada/letters/0", "rank 8 of 12: the preset allows no more"),
        Decision("drop", f"mallory/{HOSTILE}", "absent from this machine"),
        Decision("merge", "bob/letters", "overlap 0.9: its subspace is inside ada's"),
    )
    whole = {"attention_bias": False, "mlp_bias": False, "head_dim": 8, "tie_word_embeddings": False}
    arch = world.arch("letters", "errors")
    targets = [f"{'mlp' if name[0] in 'gud' else 'self_attn'}.{name}" for name in arch.adapters[0].delta_targets]
    adapters = tuple(replace(adapter, delta_targets=tuple(targets)) for adapter in arch.adapters)
    return replace(arch, backbone={**arch.backbone, **whole}, adapters=adapters, decisions=decisions)


def put_profiles(run: Path, made: ModuleType) -> None:
    plugins, store = open_plugins(), ProfileStore(run / "niwt_stage2_output")
    for capability, teacher in CAPABILITIES.items():
        metric = plugins.capability_metric(capability)
        samples = draw_samples(metric, SIZE, SEED)[-TOLD:]
        outputs = [VerifyOutput(s.id, s.digest, s.target, metric.score(s, s.target)) for s in samples]
        outputs[0] = replace(outputs[0], output=HOSTILE)
        outputs[1] = replace(outputs[1], output=BROKEN)
        outputs[2] = replace(outputs[2], output={"call": [1, None]})
        blocks = tuple(made.block(i, n=SIZE, seed=i) for i in (2, 10))
        local = tuple(
            PerturbationResult(kind, what, block.block, 0.5, drop, drop - 0.1, drop + 0.1, 12)
            for block in blocks
            for kind, what, drop in (("block", "bypass", 0.9), ("mlp_chunk", "0:8", -0.02), ("mlp_chunk", "8:16", 0.4))
        )
        found = made.profile(teacher, capability, n=SIZE, seed=SEED, blocks=blocks, verify_outputs=tuple(outputs))
        found = replace(found, metric=metric.metric, direction=metric.direction)
        made.put(store, replace(found, perturbations=(*found.perturbations, *local)))


def put_trainings(run: Path) -> None:
    for name, steps in (("joint", 500), ("letters", 7)):
        folder = run / "distill" / name
        folder.mkdir(parents=True)
        rows: list[dict[str, Any]] = [
            {"step": i, "loss": 2.0 - i / 100, "anchor_error/0": 0.5, "anchor_error/1": 0.25}
            for i in range(1, steps + 1)
        ]
        rows.insert(5, {"event": "rollback", "step": 5, "to": 2, "cause": "loss over its baseline", "detail": HOSTILE})
        rows.append({"event": "evaluation", "step": steps, "score": 0.9, "retention": 0.9, "goal": 0.97, "n": 64})
        rows.append({"step": steps + 1, "loss": "nan"})
        (folder / "steps.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        write_summary(folder, {"capability": name, "reason": "ceiling", "steps": steps + 1, "seconds": 3.25})
    measured = {"teacher": 1.0, "goal": 0.97, "n": 64, "low": 0.8, "high": 1.0}
    taught = tuple(
        Taught(name, {**measured, "score": score, "retention": score, "reached": score / 0.97}, ())
        for name, score in (("letters", 0.99), ("errors", 0.5))
    )
    write_report(run, DistillReport(taught, {"backbone": 10}, {"rows": 0.5, "teaching": 6.75}, router()))


def router() -> dict[str, Any]:
    return {
        "classes": ["letters", "errors"],
        "n": 40,
        "accuracy": 0.975,
        "ci95": [0.87, 0.999],
        "confusion": {
            "letters": {"letters": 20, "errors": 0, "none": 0},
            "errors": {"letters": 1, "errors": 18, "none": 1},
        },
        "foreign": {"prose": [19, 20]},
        "calibration_error": 0.0125,
        "microseconds": 41.0,
        "microseconds_p99": 77.0,
        "parameters": 96,
        "seconds": 0.2,
    }


def verified(run: Path) -> dict[str, Any]:
    """The gate's report, without its hash."""
    row = {"benchmark": "pack", "n": 40, "retain_fraction": 0.97, "minimum": None, "margin": 0.0}
    higher = {**row, "metric": "exact", "direction": "higher", "teacher": "ada", "teacher_score": 0.8}
    lower = {**row, "metric": "error_rate", "direction": "lower", "teacher": "bob", "teacher_score": 0.2}
    rows = {
        "errors": {**lower, "retain_fraction": 1.03, "student_score": 0.3, "ratio": 0.3 / 0.2, "ci95": [1.2, 1.8]},
        "letters": {**higher, "student_score": 0.79, "ratio": 0.79 / 0.8, "ci95": [0.9, 1.05]},
    }
    rows["errors"] |= {"verdict": "fail", "reason": f"0.3 is above 0.206 {HOSTILE}"}
    rows["letters"] |= {"verdict": "pass", "reason": ""}
    plain = {"n": 10, "score": 0.05, "student_score": 0.8, "teacher_score": 0.9, "keeps_contract": False}
    control = {
        "backbone": plain,
        "baselines": {"last letter": 0.08},
        "no_teacher": {"seeds": {"1": {"score": 0.1, "n": 9}}},
    }
    teacher = {"weights_sha256": None, "place": "teachers/ada", "moved": True, "open": "No such file or directory"}
    return {
        "format_version": 1,
        "verdict": "fail",
        "reasons": [f"errors: 0.3 is above 0.206 {HOSTILE}"],
        "subject": "student",
        "subject_sha256": student_digest(run / "student"),
        "seed": SEED,
        "settings": {"samples": 40},
        "gaps": [],
        "capabilities": rows,
        "isolation": {
            "verdict": "pass",
            "reasons": [],
            "teachers": {"ada": teacher},
            "refused": [],
            "attempts": [],
            "modules": [],
        },
        "controls": {"errors": control, "letters": control},
        "conditions": {"errors": conditions(0.2, 0.3), "letters": conditions(0.8, 0.79)},
        "attempts": attempts(),
        "variants": {"nf4": variant(rows)},
    }


def conditions(teacher: float, student: float) -> dict[str, Any]:
    def part(n: int, shift: float) -> dict[str, Any]:
        return {"n": n, "student_score": student + shift, "teacher_score": teacher}

    return {
        "length": [{"characters": [3 + i, 4 + i], **part(10, i / 100)} for i in range(4)],
        "stratum": {"early": part(17, 0.0), f"late {HOSTILE}": part(23, 0.125)},
        "batch": {"size": 8, "n": 6, "equal": 5, "score": student, "score_alone": student - 0.015625},
        "truncated": 3,
        "latency": {"n": 6, "ms_per_token": 1.375, "p10": 1.125, "p90": 2.625},
    }


def attempts() -> list[dict[str, Any]]:
    """As `nexus run` tells them: taught on, given more room, and one that could not be."""
    again = {"capability": "errors", "missed": 0.0625, "steps": 1200, "profile_score": 0.28125, "replaced": "x"}
    grown = {**again, "missed": 0.046875, "steps": 2400, "grown": f"rank 8 becomes 12 {HOSTILE}"}
    return [
        {"attempt": 1, "stage": 4, "adapters": [again]},
        {"attempt": 2, "stage": 3, "adapters": [grown], "failed": f"errors: no room {HOSTILE} (more)"},
    ]


def variant(rows: dict[str, Any]) -> dict[str, Any]:
    kept = ("teacher_score", "student_score", "ratio", "n", "ci95", "margin", "verdict", "reason")
    own = {name: {key: row[key] for key in kept} for name, row in rows.items()}
    own["letters"] |= {"student_score": 0.71875, "ratio": 0.71875 / 0.8, "ci95": None, "verdict": "fail"}
    return {"verdict": "fail", "subject_sha256": "0" * 64, "reasons": [f"letters: {HOSTILE}"], "capabilities": own}


def put_exports(run: Path) -> None:
    """Two in RUN/exports, as `nexus bundle export` reports on itself."""
    line = Line(
        capability="letters",
        asked="given text",
        metric="exact",
        direction="higher",
        data="pack",
        seed=SEED,
        n=30,
        gate_n=40,
        score=0.59375,
        ci95=(0.5, 0.75),
        bundle_score=0.79,
        ratio_to_bundle=0.59375 / 0.79,
        teacher_score=0.8,
        ratio_to_teacher=0.59375 / 0.8,
        same_answers=0.765625,
        retain_fraction=0.97,
        minimum=None,
        in_contract=False,
        kept=False,
        reason=f"its tokenizer cuts otherwise {HOSTILE}",
    )
    for name, to, lines in (
        ("gguf", "gguf", (line,)),
        ("plain", "hf", (replace(line, asked="", kept=True, reason=""),)),
    ):
        (run / "exports" / name).mkdir(parents=True)
        report = ExportReport("b", "a" * 64, to, "fp16", ("letters",), 3, 1, 900, None, None, "an engine", (), lines)
        report.write(run / "exports" / name, "use", "MIT")


def put_start(run: Path) -> None:
    """What `nexus run` leaves beside the stages' own: what was asked for, every teacher's fate, and its events."""
    options = {
        "run": "runs/a run",
        "out": "runs/a run/nexus_bundle_v1",
        "plugins": ["text", "letters"],
        "teachers": None,
        "datasets": {"letters": "my data/letters.jsonl"},
        "layers": [],
        "sample_size": 500,
        "seed": SEED,
        "lr": None,
    }
    plugins = {"capability letters": "nexus-capability-letters 0.1.0"}
    scope = {"options": options, "registry": {"path": "registry.yaml", "sha256": "b" * 64}, "plugins": plugins}
    (run / "scope.json").write_text(json.dumps(scope))
    fates = [
        ("zoe", "absent", "no path (set `path:` at registry.yaml:9)", "get zoe/zoe and set `path:` of its row", []),
        ("ada", "selected", "", "", ["letters"]),
        ("mallory", "dropped", f"dropped: {HOSTILE}", "", []),
        ("bob", "selected", "letters: taught by ada", "", ["errors"]),
        ("carl", "merged", "merged into ada: the same weights", "take `fate:` out of its row", []),
    ]
    keys = ("teacher", "status", "reason", "how", "capabilities")
    teachers = [dict(zip(keys, fate, strict=True)) for fate in fates]
    (run / "registry_report.json").write_text(json.dumps({"teachers": teachers}))
    (run / "events.jsonl").write_text("".join(json.dumps({"at": 1.0, **event}) + "\n" for event in events()))


def events() -> list[dict[str, Any]]:
    """A start that was killed in the midst of teaching, and the one after it."""
    plan = [{"unit": "profile/ada/letters", "stage": 2, "estimate": 3.0, "done": False}]
    plan += [{"unit": "distill/joint", "stage": 4, "estimate": 60.0, "done": False}]
    first = [
        {"kind": "run_started", "plan": plan},
        {"kind": "stage_started", "stage": 2, "name": "profile"},
        {"kind": "unit_started", "unit": "profile/ada/letters", "stage": 2},
        {"kind": "unit_ended", "unit": "profile/ada/letters", "seconds": 31.625, "reused": False},
        {"kind": "stage_ended", "stage": 2, "seconds": 31.75},
        {"kind": "stage_started", "stage": 4, "name": "distill"},
        {"kind": "unit_started", "unit": "distill/joint", "stage": 4},
        {"kind": "heartbeat", "unit": "distill/joint", "seconds": 4.0, "memory_mb": 300},
    ]
    second = [
        {"kind": "run_started", "plan": plan},
        {"kind": "stage_started", "stage": 1, "name": "registry"},
        {"kind": "stage_ended", "stage": 1, "seconds": 0.875},
        {"kind": "stage_started", "stage": 2, "name": "profile"},
        {"kind": "unit_ended", "unit": "profile/ada/letters", "seconds": 31.625, "reused": True},
        {"kind": "stage_ended", "stage": 2, "seconds": 0.125},
        {"kind": "stage_started", "stage": 4, "name": "distill"},
        {"kind": "unit_started", "unit": "distill/joint", "stage": 4},
        {"kind": "unit_ended", "unit": "distill/joint", "seconds": 58.375, "reused": False},
        {"kind": "unit_started", "unit": f"return/1/{HOSTILE}", "stage": 4},
        {"kind": "unit_ended", "unit": f"return/1/{HOSTILE}", "seconds": 11.25, "reused": False},
        {"kind": "stage_ended", "stage": 4, "seconds": 70.5},
        {"kind": "stage_started", "stage": 6, "name": "package"},
    ]
    return first + second


def put_report(run: Path) -> None:
    write_verified(run / "verify_report.json", signed(verified(run)))


def put_study(run: Path) -> None:
    """Of `letters` alone, so that the other capability's control comes from the gate's report."""
    interval = {"value": 0.125, "low": 0.0625, "high": 0.1875}
    seed = {"failed": None, "seconds": 12.5}
    arm = {"title": "t", "seeds": {"1": seed}, "score": {"letters": interval}, "retained": {"letters": interval}}
    study = {
        "format": 1,
        "preset": "tiny",
        "steps": 300,
        "seeds": 1,
        "samples": 40,
        "verdict": "full wins",
        "notes": [],
    }
    (run / "study").mkdir()
    (run / "study/study.json").write_text(json.dumps({**study, "arms": {"no_teacher": arm, "full": arm}}))
