"""`nexus profile` and `nexus profile show`: find, prove and store what carries a capability."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.lazy import LazyGroup
from nexus_core.cli.output import print_json, print_table
from nexus_core.profiling import OUTPUT

if TYPE_CHECKING:
    from nexus_core.pipeline.stages.profile import ProfileOrder
    from nexus_core.profiling.model import CapabilityProfile

RUN = click.Path(path_type=Path, file_okay=False)


FEATURES = {
    "features": ("nexus_core.cli.profile_sae:features", "Compare a profile with a sparse autoencoder's features.")
}


@click.group(cls=LazyGroup, lazy=FEATURES, invoke_without_command=True)
@click.option("--teacher", help="The teacher's id in the registry.")
@click.option("--capability", help="What to profile it for.")
@click.option("--layers", default="auto", show_default=True, help="Block names, comma-separated, or auto.")
@click.option(
    "--sample-size", type=click.IntRange(min=8), help="Samples to profile on (the registry says how many by default)."
)
@click.option(
    "--signals", type=click.IntRange(min=0), help="Train samples to keep the teacher's signals of; as --sample-size."
)
@click.option(
    "--gate-samples",
    type=click.IntRange(min=0),
    help="Verify samples to score the teacher on, for the gate (the registry says how many by default; 0: none).",
)
@click.option("--reference-only", is_flag=True, help="Only score a teacher that was profiled before, for the gate.")
@click.option("--data", help="A file or directory of yours, or a benchmark that the capability knows.")
@click.option(
    "--resume", is_flag=True, help="Keep a finished profile of the same weights and size instead of measuring it again."
)
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--plugins", "names", help="Use only these plugins (comma-separated).")
@click.pass_context
def command(ctx: click.Context, /, teacher: str | None, capability: str | None, **options: Any) -> None:
    """Profile a teacher on a capability: which blocks and directions carry it, proven by ablation.

    \b
    Examples:
      nexus profile --teacher zoo-reasoning --capability reasoning
      nexus profile --teacher zoo-reasoning --capability reasoning --sample-size 500 --run runs/standard
      nexus profile show zoo-reasoning reasoning --plot profile.png
    """
    if ctx.invoked_subcommand is not None:
        return
    if not teacher or not capability:
        raise click.UsageError("--teacher and --capability say what to profile", ctx)
    if options["reference_only"] and options["gate_samples"] == 0:
        raise click.UsageError("--reference-only with --gate-samples 0 asks for nothing", ctx)
    _profile(teacher, capability, options)


def _profile(teacher_id: str, capability: str, options: dict[str, Any]) -> None:
    from nexus_core.pipeline.stages import profile as stage

    order = _open(teacher_id, capability, options)
    measure = not options["reference_only"]
    if measure and options["resume"] and stage.is_finished(order):
        order.say("profiled already")
    elif measure:
        _print(stage.decompose(order))
    # Signals are taken in the bases as stored (at half precision), since those are what the student will be held to.
    profile = order.store.read(*order.key)
    where = [order.store.root / "profiles" / profile.teacher / profile.capability]
    if measure:
        where.append(stage.collect(order, profile))
    stage.score(order, options["resume"])
    click.echo(f"stored in {' and '.join(map(str, where))}")
    if measure and not any(block.proven for block in profile.blocks):
        _say_unproven(profile)
        sys.exit(1)


def _open(teacher_id: str, capability: str, options: dict[str, Any]) -> ProfileOrder:
    from nexus_core.cli.context import hold_run, open_plugins, open_registry
    from nexus_core.pipeline.presence import load_teacher
    from nexus_core.pipeline.stages import profile as stage
    from nexus_core.profiling.run import weights_hash
    from nexus_core.registry.licence import refuse_use

    registry = open_registry()
    row = registry.teacher(teacher_id)
    refuse_use(row)
    contract = registry.contract(capability, row.id if capability in row.capabilities else None)
    plugins = open_plugins(options["names"])
    metric = plugins.capability_metric(contract.capability)
    hold_run(options["run"], create=not options["reference_only"])
    teacher = load_teacher(plugins, row)
    progress = _Progress(f"{row.id}/{contract.capability}")
    layers = () if options["layers"] == "auto" else tuple(name.strip() for name in options["layers"].split(","))
    settings = stage.profile_settings(
        registry,
        options["sample_size"] or registry.profiling.samples,
        layers=layers,
        seed=options["seed"],
        data=options["data"],
    )
    signals = settings.sample_size if options["signals"] is None else options["signals"]
    gate = registry.gate.samples if options["gate_samples"] is None else options["gate_samples"]
    return stage.ProfileOrder(
        run=options["run"],
        registry=registry,
        plugins=plugins,
        contract=contract,
        metric=metric,
        teacher=teacher,
        weights=weights_hash(teacher),
        settings=settings,
        amounts=stage.Amounts(signals, signals * registry.profiling.drill, gate),
        say=progress.say,
        beat=progress.beat,
    )


def _say_unproven(profile: CapabilityProfile) -> None:
    for note in [*profile.notes, *(block.note for block in profile.blocks)]:
        click.echo(f"note: {note}", err=True)
    click.echo(
        "nothing is proven non-negotiable; try a larger --sample-size, other --layers, or other --data", err=True
    )


@command.command()
@click.argument("teacher")
@click.argument("capability")
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Also draw variance, ablations and heads (PNG or SVG).",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def show(teacher: str, capability: str, run: Path, plot: Path | None, as_json: bool) -> None:
    """Show a stored profile: components with class and interval, ablations, heads, reconstruction.

    \b
    Example:
      nexus profile show zoo-reasoning reasoning --plot profile.png
    """
    from nexus_core.profiling.artifacts import ProfileStore

    profile = ProfileStore(run / OUTPUT).read(teacher, capability)
    if as_json:
        from nexus_core.profiling.show import document

        print_json(document(profile))
    else:
        _print(profile)
    if plot is not None:
        from nexus_core.profiling.plots import draw

        draw(profile, plot)
        click.echo(f"drawn to {plot}", err=as_json)


@command.command()
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def overlap(run: Path, as_json: bool) -> None:
    """Compare the teachers that were profiled on one capability (CCA, SVCCA, RSA), and note the outcome in the plan.

    \b
    Example:
      nexus profile overlap --run runs/default
    """
    from dataclasses import asdict

    from nexus_core.cli.context import open_registry
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.compare import compare_profiles
    from nexus_core.profiling.overlap import OverlapOptions
    from nexus_core.profiling.show import overlap_rows

    options = OverlapOptions(heavy_above=open_registry().profiling.overlap_heavy)
    found = compare_profiles(ProfileStore(run / OUTPUT), options)
    if as_json:
        print_json([asdict(row) for row in found])
    elif found:
        print_table(*overlap_rows(found))
    else:
        click.echo("no capability has two profiled teachers; profile another: nexus profile --teacher T --capability C")


def _print(profile: CapabilityProfile) -> None:
    from nexus_core.profiling.show import tables

    for title, headers, rows in tables(profile):
        print_table(headers, rows, title)
        click.echo()


class _Progress:
    """Says each step, and that it is alive whenever five seconds have passed without one."""

    def __init__(self, title: str) -> None:
        import time

        self.clock = time.monotonic
        self.title, self.step = title, ""
        self.started = self.said = self.clock()

    def say(self, step: str) -> None:
        self.step, self.said = step, self.clock()
        click.echo(f"{self.title} [{self.said - self.started:5.1f} s] {step}", err=True)

    def beat(self) -> None:
        if self.clock() - self.said >= 5:
            self.say(self.step)
