"""Stage 6 and after: the bundle of a student that passed, and the report of every run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.atomic import write_atomic
from nexus_core.errors import NexusError
from nexus_core.pipeline.units import Desk, Estimate, Unit, digest_of

if TYPE_CHECKING:
    from nexus_core.pipeline.bench import Bench

REPORTS = ("report.json", "report.html")


def bundle_unit(bench: Bench, verified: Unit, root: str) -> Unit:
    """The bundle. `root` identifies the first verification, by which a plan knows that nothing before it is to be done."""
    teachers = bench.registry.teachers
    rows = [
        [bench.registry.capability(pair.capability).aliases, teachers[pair.teacher].license] for pair in bench.pairs
    ]
    digest = digest_of(verified=verified.digest, out=bench.options.out, rows=rows, code=bench.code())
    estimate = Estimate(bench.measured.fixed, bench.measured.memory_mb, 10.0)
    return Unit("bundle", 6, digest, partial(_bundle, bench), estimate, facts={"root": root})


def _bundle(bench: Bench, desk: Desk) -> Sequence[Path]:
    """What was there before stays as a version: `nexus bundle rollback` brings it back."""
    from nexus_core.bundle.check import check_bundle
    from nexus_core.bundle.manifest import MANIFEST
    from nexus_core.pipeline.package import PackageOrder, package
    from nexus_core.pipeline.rollback import versions_of

    out = bench.options.out
    with versions_of(out, desk.say) as versions, versions.draft() as draft:
        package(
            PackageOrder(bench.run, draft, bench.registry, bench.plugins, device=bench.options.device, say=desk.say)
        )
        there = out / MANIFEST
        if there.is_file() and there.read_bytes() == (draft / MANIFEST).read_bytes():
            try:
                check_bundle(out)
                return [out]
            except NexusError as error:
                desk.say(f"{out} is replaced: {error.message}")
                shutil.rmtree(out)
        versions.accept()
    return [out]


def report_unit(bench: Bench, before: Sequence[Unit], root: str) -> Unit:
    """report.html and report.json, whatever the verdict."""
    digest = digest_of(before=[unit.digest for unit in before], code=bench.code())
    estimate = Estimate(2 * bench.measured.fixed, bench.measured.memory_mb, 2.0)
    return Unit("report", 6, digest, partial(_report, bench), estimate, facts={"root": root})


def _report(bench: Bench, desk: Desk) -> Sequence[Path]:
    from nexus_core.bundle.manifest import MANIFEST
    from nexus_core.report.collect import ReportOrder, collect
    from nexus_core.report.page import render

    out = bench.options.out
    bundle = out if (out / MANIFEST).is_file() else None
    found = collect(ReportOrder(bench.run, bench.registry, bench.plugins, bundle))
    text = json.dumps(found, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    paths = [bench.run / name for name in REPORTS]
    for path, content in zip(paths, (text, render(found)), strict=True):
        write_atomic(path, content.encode())
    return paths
