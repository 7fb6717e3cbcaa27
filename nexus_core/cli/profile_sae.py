"""`nexus profile features`: which features of a sparse autoencoder the protected subspace keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN
from nexus_core.profiling import OUTPUT

if TYPE_CHECKING:
    from nexus_core.profiling.model import BlockProfile, CapabilityProfile
    from nexus_core.profiling.sae import SAE, Firing
    from nexus_core.types import CapabilityMetric, Teacher

SHOWN = 20  # features in the table


@click.command()
@click.argument("teacher")
@click.argument("capability")
@click.option("--block", required=True, help="A block of the profile, by its name.")
@click.option(
    "--sae",
    "directory",
    required=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="The folder of one layer: config.json and params.safetensors.",
)
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--samples", type=click.IntRange(min=1), default=50, show_default=True, help="Prompts to look at.")
@click.option("--data", help="The samples' source, where the profile was made with one.")
@click.option("--plugins", "names", help="Use only these plugins (comma-separated).")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def features(teacher: str, capability: str, as_json: bool, **options: Any) -> None:
    """Show which features of a sparse autoencoder fire on a block, and which still do when only the protected subspace
    is left. Reads a stored profile and writes nothing.

    \b
    Example:
      nexus profile features gemma-3-4b reasoning --block model.layers.12 \\
        --sae gemma-scope-2-4b/resid_post/layer_12_width_16k_l0_small
    """
    from nexus_core.cli.context import load_teacher, open_plugins, open_registry
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.run import weights_hash
    from nexus_core.profiling.sae import load_sae
    from nexus_core.registry.licence import refuse_use

    registry = open_registry()
    row = registry.teacher(teacher)
    refuse_use(row)
    contract = registry.contract(capability, row.id if capability in row.capabilities else None)
    store = ProfileStore(options["run"] / OUTPUT)
    block = _block(store.read(row.id, contract.capability), options["block"])
    plugins = open_plugins(options["names"])
    loaded = load_teacher(plugins, row)
    profile = store.read(row.id, contract.capability, weights_hash(loaded))  # of these very weights
    sae = load_sae(options["directory"], next(loaded.model.parameters()).device)
    metric = plugins.capability_metric(contract.capability)
    found = _look(_Subject(loaded, metric, block, sae), options["samples"], profile.seed, options["data"])
    _print_document(profile, found) if as_json else _print(profile, found)


@dataclass(frozen=True, slots=True)
class _Subject:
    teacher: Teacher
    metric: CapabilityMetric
    block: BlockProfile
    sae: SAE


@dataclass(frozen=True, slots=True)
class _Found:
    """What the tables and the document are made of."""

    subject: _Subject
    note: str
    samples: int
    kept: Firing
    control: Firing


def _block(profile: CapabilityProfile, name: str) -> BlockProfile:
    from nexus_core.errors import NexusError

    blocks = {block.block: block for block in profile.blocks}
    if name not in blocks:
        known = ", ".join(blocks) or "none: nothing was found to protect"
        raise NexusError(f"{name!r} is no block of this profile", f"its blocks: {known}")
    if blocks[name].pca.k == 0:
        raise NexusError(f"{name}: nothing is protected there ({blocks[name].note})", "choose another block")
    return blocks[name]


def _look(subject: _Subject, count: int, seed: int, data: str | None) -> _Found:
    from nexus_core.profiling.draw import draw_samples
    from nexus_core.profiling.sae import check_site, features_kept
    from nexus_core.profiling.scoring import Scorer
    from nexus_core.profiling.sites import find_sites

    samples = draw_samples(subject.metric, count, seed, data)
    sites = find_sites(subject.teacher, subject.teacher.encode(samples[:2]))
    site = next(site for site in sites if site.name == subject.block.block)
    note = check_site(subject.sae, site)
    scorer = Scorer(subject.teacher, subject.metric, samples)
    kept, control = features_kept(scorer, site, subject.sae, subject.block.pca, range(len(samples)))
    return _Found(subject, note, len(samples), kept, control)


def _print(profile: CapabilityProfile, found: _Found) -> None:
    sae, block, kept = found.subject.sae, found.subject.block, found.kept
    fired = int((kept.before > 0).sum())
    rows = [
        ["autoencoder", f"{sae.features} features, {found.note}"],
        ["explains", f"{kept.explained:.1%} of the variance at {kept.positions} positions, {found.samples} samples"],
        ["fire at all", f"{fired} features"],
        ["still fire", f"{_share(kept)} of all firings, with {block.pca.k} of {block.dim} directions left"],
        ["by chance", f"{_share(found.control)}, with as many random directions"],
    ]
    print_table(["what", "found"], rows, f"{profile.teacher} on {profile.capability}: {block.block}")
    click.echo()
    headers = ["feature", "fires", "still", "kept", "fires only then"]
    table = [
        [
            str(row["feature"]),
            f"{row['rate']:.1%}",
            f"{row['rate_left']:.1%}",
            f"{row['kept']:.0%}",
            f"{row['new']:.1%}",
        ]
        for row in _rows(kept)
    ]
    print_table(headers, table, f"features by loss (the first {len(table)} of {fired})")


def _share(firing: Firing) -> str:
    return "nothing fired" if firing.share_kept is None else f"{firing.share_kept:.1%}"


def _rows(firing: Firing) -> list[dict[str, Any]]:
    """The features that lost most firings: rates are shares of positions, `kept` the share of a feature's own firings."""
    n = firing.positions
    return [
        {
            "feature": i,
            "rate": float(firing.before[i] / n),
            "rate_left": float(firing.after[i] / n),
            "kept": float(firing.both[i] / firing.before[i]),
            "new": float((firing.after[i] - firing.both[i]) / n),
        }
        for i in firing.most_lost(SHOWN)
    ]


def _print_document(profile: CapabilityProfile, found: _Found) -> None:
    import math

    sae, block, kept = found.subject.sae, found.subject.block, found.kept
    print_json(
        {
            "teacher": profile.teacher,
            "capability": profile.capability,
            "block": block.block,
            "directions": block.pca.k,
            "sae": {"path": str(sae.path), "features": sae.features, "note": found.note},
            "samples": found.samples,
            "positions": kept.positions,
            "explained": kept.explained if math.isfinite(kept.explained) else None,
            "features_firing": int((kept.before > 0).sum()),
            "share_kept": kept.share_kept,
            "share_kept_by_chance": found.control.share_kept,
            "most_lost": _rows(kept),
        }
    )
