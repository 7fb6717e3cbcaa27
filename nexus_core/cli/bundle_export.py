"""`nexus bundle export`: a bundle for tools that know nothing of Nexus."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from nexus_core.cli.output import print_json, print_table


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--to", type=click.Choice(["hf", "peft", "gguf"]), required=True, help="The form.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A directory that is not there yet.")
@click.option(
    "--capability",
    "capabilities",
    multiple=True,
    help="With this adapter; without, the plain backbone. peft takes several, and all when none is named.",
)
@click.option("--dtype", type=click.Choice(["fp16", "bf16", "fp32"]), default="fp16", show_default=True)
@click.option("--samples", type=click.IntRange(min=1), help="Samples of each capability, if not as many as the gate's.")
@click.option("--allow-below-contract", "allow_below", is_flag=True, help="Write it whatever it scores; it says so.")
@click.option("--enable-uncensored", "allow_isolated", is_flag=True, help="Let an isolated adapter be exported.")
@click.option("--json", "as_json", is_flag=True, help="The export's report as one JSON document.")
def command(bundle: Path, to: str, out: Path, capabilities: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Write BUNDLE in another form, and ask it what the gate asked before it is given out.

    hf is a plain Llama checkpoint, peft adapters over one, gguf a file for llama.cpp.

    \b
    Examples:
      nexus bundle export nexus_bundle_v1 --to hf --capability reasoning --out reasoning_hf
      nexus bundle export nexus_bundle_v1 --to peft --out nexus_peft
      nexus bundle export nexus_bundle_v1 --to gguf --capability code --out code_gguf

    Exit status 3: it is below its contract, and was not written.
    """
    from nexus_core.bundle.export.card import COLUMNS
    from nexus_core.cli.context import open_plugins
    from nexus_core.pipeline.export import ExportOrder, export

    started = time.perf_counter()

    def say(text: str) -> None:
        click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)

    report = export(ExportOrder(bundle, out, to, open_plugins(), capabilities, say=say, **options))
    if as_json:
        print_json(report.as_json())
    else:
        print_table(COLUMNS, [line.cells() for line in report.lines])
        click.echo(
            f"\nblocks {report.blocks}, of them bottlenecks {report.bottlenecks}; {report.parameters:,} parameters"
        )
        for limit in report.limits:
            click.echo(f"* {limit}")
    for line in report.failing:
        click.echo(f"below: {line.capability} ({line.asked or to}): {line.reason}", err=True)
    click.echo(f"written to {out}", err=as_json)
