"""`nexus bundle rollback`: the version before, which is kept beside a bundle, in its place again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nexus_core.pipeline.rollback import Version

COLUMNS = ("version", "manifest", "kind", "bytes", "has otherwise")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--to", type=click.IntRange(min=1), help="The number of the version (else the one that was replaced last)."
)
@click.option("--list", "listing", is_flag=True, help="Show the versions that are kept, and put none back.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
def command(bundle: Path, to: int | None, listing: bool, as_json: bool) -> None:
    """Put a kept version of BUNDLE back in its place, if every file of it is right. What was there is kept in turn.

    \b
    Examples:
      nexus bundle rollback runs/default/nexus_bundle_v1 --list
      nexus bundle rollback runs/default/nexus_bundle_v1
      nexus bundle rollback runs/default/nexus_bundle_v1 --to 2

    The same command again takes it back.
    """
    from nexus_core.errors import UsageError
    from nexus_core.pipeline.rollback import list_versions, rollback

    if listing and to is not None:
        raise UsageError("--list puts nothing back, and --to names what to put back", "give one of them")
    if listing:
        _print(bundle, list_versions(bundle, _say), as_json)
        return
    done = rollback(bundle, to, _say)
    if as_json:
        said = {"bundle": str(bundle), "version": done.number, "replaced": done.replaced}
        print_json({**said, "manifest_sha256": done.manifest.as_json()["sha256"]})
        return
    click.echo(f"{bundle} is version {done.number} again: every hash is right")
    if done.replaced is not None:
        click.echo(f"what was there is version {done.replaced}: nexus bundle rollback {bundle} takes this back")


def _say(text: str) -> None:
    click.echo(text, err=True)


def _print(bundle: Path, versions: list[Version], as_json: bool) -> None:
    if as_json:
        print_json({"bundle": str(bundle), "versions": [_as_json(version) for version in versions]})
    elif not versions:
        click.echo(f"no earlier version of {bundle} is kept")
    else:
        print_table(COLUMNS, [_row(version) for version in versions])


def _as_json(version: Version) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": version.number,
        "manifest_sha256": manifest and manifest.as_json()["sha256"],
        "bytes": manifest and sum(facts.bytes for facts in manifest.files.values()),
        "differs": list(version.differs),
        "problem": version.problem or None,
    }


def _row(version: Version) -> list[str]:
    manifest = version.manifest
    if manifest is None:
        return [str(version.number), "damaged", "-", "-", version.problem]
    size = sum(facts.bytes for facts in manifest.files.values())
    return [
        str(version.number),
        manifest.as_json()["sha256"][:12],
        manifest.quantisation.kind,
        f"{size:,}",
        ", ".join(version.differs) or "nothing",
    ]
