"""`nexus bundle build`: a verified student becomes a bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from nexus_core.bundle.manifest import NAME, SHARD_LIMIT
from nexus_core.cli.output import print_json


@click.command()
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Where the bundle goes.")
@click.option(
    "--quantise",
    type=click.Choice(["fp16", "int8", "nf4"]),
    help="Store fewer bits, and verify again what comes out of them. Without: the verified weights themselves (fp32).",
)
@click.option("--name", default=NAME, show_default=True, help="The bundle's name, in its manifest and README.")
@click.option(
    "--shard-limit", type=click.IntRange(min=1), default=SHARD_LIMIT, help="Split files above so many bytes (10 GB)."
)
@click.option("--device", default="cpu", show_default=True, help="Where a quantised student answers: cpu or cuda.")
@click.option("--json", "as_json", is_flag=True, help="The manifest as one JSON document.")
def command(run: Path, out: Path, quantise: str | None, as_json: bool, **options: Any) -> None:
    """Make a bundle of the student in RUN, if RUN/verify_report.json says that this very student passed.

    \b
    Examples:
      nexus bundle build runs/default --out nexus_bundle_v1
      nexus bundle build runs/default --out nexus_bundle_nf4 --quantise nf4

    Exit status 3: the student was not verified, failed, was changed since, or fails when it is quantised.
    """
    from nexus_core.bundle.check import VERIFIED
    from nexus_core.cli.context import hold_run, open_plugins, open_registry
    from nexus_core.distill.run import check_device
    from nexus_core.pipeline.package import PackageOrder, package

    check_device(options["device"])  # a slip would be written down as a variant that failed
    hold_run(run)  # its report remembers what came of a variant
    started = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)

    order = PackageOrder(run, out, open_registry(), open_plugins(), quantise or VERIFIED, say=say, **options)
    manifest = package(order)
    total = sum(facts.bytes for facts in manifest.files.values())
    if as_json:
        print_json(manifest.as_json())
    click.echo(f"written to {out}: {len(manifest.files)} files, {total:,} bytes", err=as_json)
