"""`nexus bundle`: make, look at, check and compare what ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from nexus_core.cli.lazy import LazyGroup
from nexus_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nexus_core.bundle.manifest import CapabilityFacts, Manifest

COMMANDS = {
    "build": ("nexus_core.cli.bundle_build:command", "Make a bundle of a run's verified student."),
    "export": ("nexus_core.cli.bundle_export:command", "Write a bundle as a checkpoint, PEFT adapters or GGUF."),
    "rollback": ("nexus_core.cli.bundle_rollback:command", "Put the version before back in a bundle's place."),
}
PATH = click.Path(path_type=Path)
JSON = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
COLUMNS = ("capability", "tower", "metric", "teacher", "student", "retained", "n", "contract", "bytes")


@click.group(name="bundle", cls=LazyGroup, lazy=COMMANDS)
def command() -> None:
    """Make, look at, check and compare bundles.

    \b
    Examples:
      nexus bundle build runs/default --out nexus_bundle_v1
      nexus bundle info nexus_bundle_v1
      nexus bundle verify nexus_bundle_v1
      nexus bundle diff nexus_bundle_v1 nexus_bundle_nf4
      nexus bundle rollback nexus_bundle_v1
      nexus bundle export nexus_bundle_v1 --to gguf --capability code --out code_gguf
    """


@command.command()
@click.argument("bundle", type=PATH)
@JSON
def info(bundle: Path, as_json: bool) -> None:
    """Show what BUNDLE can do, what it kept of its teachers, and how large it is. Reads the manifest alone.

    Example: nexus bundle info nexus_bundle_v1
    """
    from nexus_core.bundle.disk import read_manifest

    manifest = read_manifest(bundle)
    if as_json:
        print_json(manifest.as_json())
        return
    print_table(COLUMNS, [_row(name, facts, manifest) for name, facts in manifest.capabilities.items()])
    total = sum(facts.bytes for facts in manifest.files.values())
    click.echo(f"\n{manifest.name}: {len(manifest.files)} files, {total:,} bytes, {manifest.quantisation.kind}")
    click.echo(f"seed {manifest.seed}; made with {', '.join(f'{n} {v}' for n, v in manifest.created_with.items())}")
    print_table(["teacher", "licence", "fate"], [[t.id, t.licence, t.fate] for t in manifest.teachers])


def _row(name: str, facts: CapabilityFacts, manifest: Manifest) -> list[str]:
    from nexus_core.bundle.readme import contract_words
    from nexus_core.bundle.shards import files_of

    size = sum(manifest.files[file].bytes for file in files_of(facts.adapter, manifest.files))
    shown = " or ".join((name, *facts.aliases)) + (" (isolated)" if facts.isolated else "")
    result = facts.result
    scores = [f"{result.teacher_score:.3f}", f"{result.student_score:.3f}"]
    ratio = "-" if result.ratio is None else f"{result.ratio:.3f}"
    contract = contract_words(facts.contract)
    return [shown, facts.tower, facts.contract.metric, *scores, ratio, str(result.n), contract, f"{size:,}"]


@command.command()
@click.argument("bundle", type=PATH)
@JSON
def verify(bundle: Path, as_json: bool) -> None:
    """Hash every file of BUNDLE, build every part of it, and compare its manifest with its report.

    The first thing that is wrong is an error that names the file. No sample is asked again: that takes the run, and
    `nexus verify --run RUN --subject BUNDLE`. Example: nexus bundle verify nexus_bundle_v1
    """
    from nexus_core.bundle.check import check_bundle

    manifest = check_bundle(bundle)
    total = sum(facts.bytes for facts in manifest.files.values())
    found = {"bundle": str(bundle), "files": len(manifest.files), "bytes": total, "parts": list(manifest.capabilities)}
    if as_json:
        print_json(found)
        return
    click.echo(f"{bundle}: {len(manifest.files)} files, {total:,} bytes: every hash is right")
    click.echo(f"built: the backbone and {', '.join(manifest.capabilities)}")
    click.echo("the report passed, and the manifest says the same")


@command.command()
@click.argument("left", type=PATH)
@click.argument("right", type=PATH)
@JSON
def diff(left: Path, right: Path, as_json: bool) -> None:
    """Show what differs between two bundles: settings, results, files. Reads the manifests alone.

    Example: nexus bundle diff nexus_bundle_v1 nexus_bundle_nf4
    """
    from dataclasses import asdict

    from nexus_core.bundle.diff import differences
    from nexus_core.bundle.disk import read_manifest

    found = differences(read_manifest(left), read_manifest(right))
    if as_json:
        print_json([asdict(each) for each in found])
    elif not found:
        click.echo("no differences")
    else:
        print_table(["what", str(left), str(right)], [[each.what, each.left, each.right] for each in found])
