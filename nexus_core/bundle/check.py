"""Whether a bundle is whole: every file there and right, every part buildable, and the manifest's figures the report's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from nexus_core.bundle.manifest import REPORT, Manifest, ResultFacts
from nexus_core.errors import ContractFailed, DataError, ModelError

VERIFIED = (
    "fp32"  # the kind that holds the very weights that the gate asked; others are asked again, and are `variants`
)


def check_bundle(path: Path) -> Manifest:
    """All that can be known without the teachers; the first thing that is wrong is an error that names it."""
    from nexus_core.bundle.reader import open_bundle

    bundle = open_bundle(path)
    if missing := sorted(name for name in bundle.manifest.files if not (path / name).is_file()):
        raise ModelError(f"{path / missing[0]} is missing", "get the bundle again from where it came")
    bundle.student()
    check_results(bundle.manifest, bundle.report(), str(path / REPORT))
    return bundle.manifest


def results_of(report: Mapping[str, Any], kind: str, where: str) -> dict[str, ResultFacts]:
    """What was measured of weights that are stored in this kind."""
    try:
        part = report if kind == VERIFIED else report["variants"][kind]
        rows = part["capabilities"]
        if part["verdict"] != "pass" or any(row["verdict"] != "pass" for row in rows.values()):
            raise ContractFailed(f"{where}: {kind} did not pass", "train further: nexus verify says what failed")
        return {name: _result(row) for name, row in rows.items()}
    except (LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{where} holds no results for {kind} ({error!r})", "run `nexus verify` again") from error


def _result(row: Mapping[str, Any]) -> ResultFacts:
    interval = row["ci95"]
    return ResultFacts(
        student_score=row["student_score"],
        teacher_score=row["teacher_score"],
        ratio=row["ratio"],
        n=row["n"],
        ci95=None if interval is None else (interval[0], interval[1]),
        verdict=row["verdict"],
    )


def check_results(manifest: Manifest, report: Mapping[str, Any], where: str) -> None:
    """The manifest says what the report says, of contracts and of results."""
    found = results_of(report, manifest.quantisation.kind, where)
    for name, facts in manifest.capabilities.items():
        if found.get(name) != facts.result:
            raise ModelError(
                f'{where} and the manifest disagree about the result of "{name}"', "build the bundle again"
            )
        row = report["capabilities"].get(name, {})
        if any(row.get(key) != value for key, value in asdict(facts.contract).items()):
            raise ModelError(f'{where} and the manifest disagree about the contract of "{name}"', "build it again")
