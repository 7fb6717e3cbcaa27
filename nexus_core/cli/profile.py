"""`nexus profile` and `nexus profile show`: find, prove and store what carries a capability."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.lazy import LazyGroup
from nexus_core.cli.output import print_json, print_table

if TYPE_CHECKING:
    from nexus_core.plugins import Plugins
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.model import CapabilityProfile
    from nexus_core.profiling.run import ProfileSettings
    from nexus_core.registry import Registry
    from nexus_core.types import CapabilityMetric, Contract, Teacher

OUTPUT = "niwt_stage2_output"
SIGNALS = "signals"
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


@dataclass(frozen=True)
class _Job:
    """What the steps of one profiling share."""

    registry: Registry
    contract: Contract
    plugins: Plugins
    metric: CapabilityMetric
    teacher: Teacher
    weights: str
    store: ProfileStore
    progress: _Progress
    options: dict[str, Any]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.teacher.source.teacher_id, self.contract.capability, self.weights


def _profile(teacher_id: str, capability: str, options: dict[str, Any]) -> None:
    job = _open(teacher_id, capability, options)
    if not options["reference_only"]:
        _decompose(job)
    # Signals are taken in the bases as stored (at half precision), since those are what the student will be held to.
    profile = job.store.read(*job.key)
    where = [job.store.root / "profiles" / profile.teacher / profile.capability]
    if not options["reference_only"]:
        where.append(_collect(job, profile))
    _score(job)
    click.echo(f"stored in {' and '.join(map(str, where))}")
    if not options["reference_only"] and not any(block.proven for block in profile.blocks):
        _say_unproven(profile)
        sys.exit(1)


def _open(teacher_id: str, capability: str, options: dict[str, Any]) -> _Job:
    from nexus_core.cli.context import hold_run, load_teacher, open_plugins, open_registry
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.profiling.run import weights_hash
    from nexus_core.registry.licence import refuse_licence

    registry = open_registry()
    row = registry.teacher(teacher_id)
    refuse_licence(row)
    contract = registry.contract(capability, row.id if capability in row.capabilities else None)
    plugins = open_plugins(options["names"])
    metric = plugins.capability_metric(contract.capability)
    options["gate_samples"] = registry.gate.samples if options["gate_samples"] is None else options["gate_samples"]
    hold_run(options["run"], create=not options["reference_only"])
    teacher = load_teacher(plugins, row)
    progress = _Progress(f"{row.id}/{contract.capability}")
    store = ProfileStore(options["run"] / OUTPUT)
    return _Job(registry, contract, plugins, metric, teacher, weights_hash(teacher), store, progress, options)


def _decompose(job: _Job) -> None:
    """The profile itself: blocks, directions, proofs."""
    from nexus_core.profiling.run import Profiler

    settings = _settings(job.registry, job.options)
    if job.options["resume"] and _finished(job.store, job.key, settings):
        job.progress.say("profiled already")
        return
    profiler = Profiler(
        job.plugins, job.teacher, job.metric, job.contract, settings, job.progress.say, job.progress.beat
    )
    profile, _ = profiler.run()
    _store(job.store, profile, job.registry)
    _print(profile)


def _score(job: _Job) -> None:
    """The teacher's scores on the verify split, which the gate compares the student with."""
    from nexus_core.profiling.reference import gate_request, is_current, measure_reference

    if not (n := job.options["gate_samples"]):
        return
    request = gate_request(job.contract, n, job.options["seed"])
    stored = job.store.reference(*job.key) if job.options["resume"] else None
    if stored is not None and is_current(stored, job.metric, request):
        job.progress.say("scored already")
        return
    job.progress.say(f"scores on {n} samples of the verify split")
    beat = job.progress.beat
    reference = measure_reference(job.teacher, job.metric, request, job.weights, lambda done, total: beat())
    job.store.write_reference(reference)
    job.progress.say(f"{reference.metric} {reference.score:.3f} on {reference.n} samples of the verify split")


def _collect(job: _Job, profile: CapabilityProfile) -> Path:
    """The signals that the student is taught from; gives the directory of their cache."""
    from nexus_core.profiling.cache import SignalCache
    from nexus_core.profiling.heads import important_heads
    from nexus_core.profiling.signals import Collector

    settings = _settings(job.registry, job.options)
    cache = SignalCache(job.options["run"] / SIGNALS, {profile.teacher: job.weights})
    wanted = settings.sample_size if job.options["signals"] is None else job.options["signals"]
    heads = important_heads(profile, job.contract.thresholds, job.registry.profiling.attention_heads)
    collector = Collector(job.teacher, job.metric, profile, cache, job.progress.say, job.progress.beat, heads)
    collector.collect(wanted, settings.seed, settings.data)
    if settings.data is None:
        collector.drill(wanted * job.registry.profiling.drill, settings.seed)
    return cache.directory


def _say_unproven(profile: CapabilityProfile) -> None:
    for note in [*profile.notes, *(block.note for block in profile.blocks)]:
        click.echo(f"note: {note}", err=True)
    click.echo(
        "nothing is proven non-negotiable; try a larger --sample-size, other --layers, or other --data", err=True
    )


def _finished(store: ProfileStore, wanted: tuple[str, str, str], settings: ProfileSettings) -> bool:
    """Whether what is stored is what is asked for; a damaged, foreign or differently measured profile is named."""
    from nexus_core.errors import NexusError

    teacher, capability, weights = wanted
    if not store.root.is_dir() or (teacher, capability) not in store.profiles():
        return False
    stored = store.read(teacher, capability, weights)
    asked: dict[str, Any] = {"samples": settings.sample_size + settings.verify, "seed": settings.seed}
    found: dict[str, Any] = {"samples": stored.n, "seed": stored.seed}
    if settings.layers:
        asked["blocks"], found["blocks"] = sorted(settings.layers), sorted(block.block for block in stored.blocks)
    if differing := [f"{key} {found[key]}, not {asked[key]}" for key in asked if asked[key] != found[key]]:
        raise NexusError(
            f"the stored profile of {teacher}/{capability} was measured otherwise: {'; '.join(differing)}",
            "leave out --resume to measure again in its place, or give another --run",
        )
    return True


def _settings(registry: Registry, options: dict[str, Any]) -> ProfileSettings:
    from nexus_core.profiling.run import ProfileSettings

    numbers = registry.profiling
    layers = () if options["layers"] == "auto" else tuple(name.strip() for name in options["layers"].split(","))
    return ProfileSettings(
        sample_size=options["sample_size"] or numbers.samples,
        pilot=numbers.pilot_samples,
        verify=numbers.verify_samples,
        blocks=numbers.layers,
        components=numbers.components_tested,
        k=numbers.components_most,
        k_middle=numbers.components_middle,
        max_drop=numbers.reconstruction_max_drop,
        layers=layers,
        seed=options["seed"],
        data=options["data"],
    )


def _store(store: ProfileStore, profile: CapabilityProfile, registry: Registry) -> None:
    from nexus_core.profiling.plan import PlanSettings, plan_capability

    teacher = profile.teacher if profile.capability in registry.teacher(profile.teacher).capabilities else None
    contract = registry.contract(profile.capability, teacher)
    store.write(profile, plan_capability(profile, contract, PlanSettings.of(registry.profiling)))


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
