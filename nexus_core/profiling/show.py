"""A profile as tables for people, and as one document for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from nexus_core.profiling.artifacts.formats import plain
from nexus_core.profiling.model import BlockProfile, CapabilityProfile, ComponentResult, ReconstructionResult
from nexus_core.profiling.overlap import Overlap

Table = tuple[str, Sequence[str], list[list[str]]]
INTERVAL = "95 % interval"


def tables(profile: CapabilityProfile) -> Iterator[Table]:
    """(title, headers, rows), in the order in which one wants to know."""
    yield _summary(profile)
    yield _pilot(profile)
    for block in profile.blocks:
        yield _components(block)
    yield _reconstruction(profile)
    yield _heads(profile)
    yield _perturbations(profile)


def _summary(profile: CapabilityProfile) -> Table:
    score = f"{profile.metric} {profile.baseline_score:.3f}, {profile.direction.value} is better, n = {profile.n}"
    rows = [["teacher", profile.teacher], ["weights", profile.weights_hash[:16]], ["baseline", score]]
    rows += [[block.block, _verdict(block)] for block in profile.blocks]
    rows += [["note", note] for note in profile.notes]
    rows.append(["seconds", f"{profile.seconds:.1f}"])
    return f"{profile.teacher} on {profile.capability}", ["what", "found"], rows


def _verdict(block: BlockProfile) -> str:
    proven = len(block.proven)
    found = f"{proven} proven non-negotiable, {len(block.non_negotiable) - proven} by caution"
    text = f"{found}, of {len(block.components)} components; {block.pca.k} of {block.dim} directions kept"
    return f"{text}; {block.note}" if block.note else text


def _pilot(profile: CapabilityProfile) -> Table:
    chosen = {block.block for block in profile.blocks}
    rows = [[name, f"{drop:+.3f}", "chosen" if name in chosen else ""] for name, drop in profile.pilot.items()]
    return "pilot: each block bypassed", ["block", "drop", ""], rows


def _components(block: BlockProfile) -> Table:
    rows = []
    for shown in _rows(block.components):
        cls = shown.cls.value + (" (undecided)" if shown.undecided else "")
        name = shown.group or str(shown.index)
        rows.append([name, f"{shown.variance_fraction:.1%}", f"{shown.drop:+.3f}", _interval(shown), str(shown.n), cls])
    title = f"{block.block}: components projected out at {block.positions} positions"
    return title, ["component", "variance", "drop", INTERVAL, "n", "class"], rows


def _rows(components: Sequence[ComponentResult]) -> Iterator[ComponentResult]:
    """One row per test: the members of a group share theirs."""
    seen: set[str] = set()
    for component in components:
        if component.group is None or component.group not in seen:
            seen.add(component.group or "")
            yield component


def _interval(measured: Any) -> str:
    return f"{measured.low:+.3f} to {measured.high:+.3f}"


def _reconstruction(profile: CapabilityProfile) -> Table:
    rows = [
        [
            r.block or "all at once",
            str(r.k),
            f"{r.score:.3f}",
            f"{r.drop:+.3f}",
            _interval(r) if r.has_interval else "-",
            str(r.n),
            _result(r),
        ]
        for r in profile.reconstruction
    ]
    headers = ["block", "k", "score", "drop", INTERVAL, "n", "result"]
    return "reconstruction: only the kept directions left", headers, rows


def _result(check: ReconstructionResult) -> str:
    if not check.passed:
        return "too much"
    return "ok, undecided" if check.undecided else "ok"


def _heads(profile: CapabilityProfile) -> Table:
    rows = [[head.block, str(head.head), f"{head.drop:+.3f}", _interval(head)] for head in profile.heads]
    return "attention heads silenced", ["block", "head", "drop", INTERVAL], rows


def _perturbations(profile: CapabilityProfile) -> Table:
    rows = [
        [p.kind, str(p.magnitude), p.block or "", f"{p.score:.3f}", f"{p.drop:+.3f}", _interval(p), str(p.n)]
        for p in profile.perturbations
    ]
    return "perturbations", ["kind", "magnitude", "block", "score", "drop", INTERVAL, "n"], rows


def overlap_rows(overlaps: Sequence[Overlap]) -> tuple[Sequence[str], list[list[str]]]:
    """(headers, rows) of the comparison of teachers."""
    headers = ["capability", "teachers", "n", "CCA", "SVCCA", "RSA", "chance (SVCCA)", "above chance", "verdict"]
    return headers, [
        [
            row.capability,
            f"{row.teacher_a}, {row.teacher_b}",
            str(row.n),
            *(_number(value) for value in (row.cca, row.svcca, row.rsa)),
            _number(row.chance.svcca if row.chance else None),
            _number(row.corrected),
            row.reason or ("heavy: could be merged" if row.heavy else "kept apart"),
        ]
        for row in overlaps
    ]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def document(profile: CapabilityProfile) -> dict[str, Any]:
    """Everything but the arrays and the teacher's answers, as numbers under fixed names; what is not finite is null."""
    found: dict[str, Any] = plain(
        {
            "teacher": profile.teacher,
            "weights_hash": profile.weights_hash,
            "capability": profile.capability,
            "metric": profile.metric,
            "direction": profile.direction.value,
            "baseline_score": profile.baseline_score,
            "n": profile.n,
            "blocks": [_block(block) for block in profile.blocks],
            "reconstruction": [_check(check) for check in profile.reconstruction],
            "heads": profile.heads,
            "perturbations": profile.perturbations,
            "pilot": profile.pilot,
            "notes": profile.notes,
            "seconds": profile.seconds,
        }
    )
    return found


def _block(block: BlockProfile) -> dict[str, Any]:
    return {
        "block": block.block,
        "index": block.index,
        "dim": block.dim,
        "k": block.pca.k,
        "non_negotiable": len(block.non_negotiable),
        "proven": len(block.proven),
        "tolerance": block.tolerance,
        "components": [_component(component) for component in block.components],
        "note": block.note,
    }


def _component(component: ComponentResult) -> dict[str, Any]:
    found: dict[str, Any] = plain(component)
    found["class"] = found.pop("cls")
    return found


def _check(check: ReconstructionResult) -> dict[str, Any]:
    interval = {"low": check.low, "high": check.high} if check.has_interval else {}
    return {
        "block": check.block,
        "k": check.k,
        "score": check.score,
        "drop": check.drop,
        **interval,
        "max_drop": check.max_drop,
        "n": check.n,
        "passed": check.passed,
        "undecided": check.undecided,
    }
