"""`nexus run`: from teachers to a verified bundle, in one command that can be stopped anywhere and goes on."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_table
from nexus_core.state import NOT_GIVEN

if TYPE_CHECKING:
    from nexus_core.pipeline.engine import Ended
    from nexus_core.pipeline.options import RunOptions
    from nexus_core.pipeline.plan import Plan
    from nexus_core.pipeline.units import Progress
    from nexus_core.state import StateStore

PATH = click.Path(path_type=Path)


class _Names(click.ParamType[Any]):
    """Comma-separated names."""

    name = "names"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[str]:
        """A list without repetitions; an empty one is a slip."""
        found = list(dict.fromkeys(name.strip() for name in str(value).split(",") if name.strip()))
        if not found:
            self.fail("expected a name, or several with commas between", param, ctx)
        return found


NAMES = _Names()


@click.command()
@click.option("--plugins", type=NAMES, help="What to teach: towers, capabilities (comma-separated); else all.")
@click.option("--teachers", type=NAMES, help="Only these teachers of the registry (comma-separated).")
@click.option("--datasets", multiple=True, metavar="CAPABILITY=PATH", help="Data of yours for one (repeatable).")
@click.option("--layers", type=NAMES, help="Blocks to profile in every teacher; else the pilot decides.")
@click.option("--sample-size", type=click.IntRange(min=8), help="How much: 50 (minutes), 500 (the standard), 5000.")
@click.option("--preset", help="The student's shape: tiny, small or design.")
@click.option("--backbone", help="A registry id or a directory to start from, or random; else the preset's.")
@click.option("--tokenizer", type=PATH, help="A tokenizer's directory, for a backbone with random weights.")
@click.option("--quantization", type=click.Choice(["nf4", "int8"]), help="Load teachers in fewer bits.")
@click.option("--device", help="Where to compute: cpu or cuda.")
@click.option("--seed", type=click.IntRange(min=0), help="Of everything that is drawn.")
@click.option("--lr", type=float, help="Learning rate of the adapters; the backbone's goes with it.")
@click.option("--router-lr", type=float, help="Learning rate of the router.")
@click.option("--router-epochs", type=click.IntRange(min=1), help="Passes of the router over its prompts.")
@click.option("--run", type=PATH, help="The run's directory (runs/default).")
@click.option("--out", type=PATH, help="Where the bundle goes (RUN/nexus_bundle_v1).")
@click.option("--stage", type=click.IntRange(0, 6), help="Stop after this stage: 0 scope to 6 package.")
@click.option("--resume", is_flag=True, help="Go on from the state; an error where there is none.")
@click.option("--reset", is_flag=True, help="Forget the state, and delete what the run has made, before anything else.")
@click.option("--dry-run", is_flag=True, help="Print the plan: units, time, memory, disk. Nothing is changed.")
@click.option("--json-events", is_flag=True, help="Events as JSON lines on stdout instead of a display.")
def command(stage: int | None, resume: bool, reset: bool, dry_run: bool, json_events: bool, **flags: Any) -> None:
    """Profile, plan, teach, verify and package: from the teachers that are here to a bundle that needs none of them.

    What was asked for is kept in .pipeline_state.json, so `nexus run` without flags goes on with the same run, from where
    it was stopped or killed. Finished units are not done again; with more --plugins or --teachers it goes on from the
    student that there is.

    \b
    Examples:
      nexus run --dry-run
      nexus run --plugins text --sample-size 50
      nexus run

    Exit status 3: a contract was missed; the report says which, and there is no bundle.
    """
    from nexus_core.state import STATE_FILE

    if resume and not STATE_FILE.exists():
        raise click.UsageError(f"there is nothing to resume: {STATE_FILE} is not there")
    if resume and reset:
        raise click.UsageError("--resume goes on, and --reset starts over: give one")
    given = _given(flags)
    if dry_run:
        _dry_run(given, reset)
        return
    ended = _run(given, reset, 6 if stage is None else stage, json_events)
    if ended.status:
        sys.exit(ended.status)


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    from nexus_core.pipeline.options import parse_datasets

    found = {name: NOT_GIVEN if value is None or value == () else value for name, value in flags.items()}
    if found["datasets"] is not NOT_GIVEN:
        found["datasets"] = parse_datasets(found["datasets"])
    return found


def _dry_run(given: Mapping[str, Any], reset: bool) -> None:
    from nexus_core.pipeline.options import options_from
    from nexus_core.state import flags_of, merged, read_state

    state = _fresh() if reset else read_state()
    known = {} if reset else state.get("units", {})
    options = options_from(flags_of(merged(state, given)))
    plan = _plan(options, _Read(known))
    _print_plan(plan)
    for reason in _misfits(plan):
        click.echo(f"does not fit: {reason}", err=True)


class _Read:
    """The units of a state that is only looked at."""

    def __init__(self, units: Mapping[str, str]) -> None:
        self.units = units

    def is_done(self, unit: str, digest: str) -> bool:
        return self.units.get(unit) == digest

    def done(self, unit: str, digest: str) -> None:
        raise AssertionError("a plan does nothing")


def _plan(options: RunOptions, progress: Progress) -> Plan:
    from nexus_core.cli.context import open_plugins, open_registry
    from nexus_core.discovery import discover
    from nexus_core.distill.run import check_device
    from nexus_core.pipeline.plan import kept_capabilities, make_plan
    from nexus_core.pipeline.units import Ledger
    from nexus_core.types import Kind

    check_device(options.device)
    registry, ledger = open_registry(), Ledger(options.run, progress)
    names = None if options.plugins is None else list(options.plugins)
    if names is not None:
        here = {ref.name for ref in discover() if ref.kind is Kind.CAPABILITY}
        kept = kept_capabilities(options.run, registry, ledger)
        names += [name for name in kept if name in here and name not in names]
    return make_plan(options, registry, open_plugins(None if names is None else ",".join(names)), ledger)


def _misfits(plan: Plan) -> list[str]:
    from nexus_core.pipeline.guards import Needs, check_plan

    todo = plan.todo
    return check_plan(Needs(todo.memory_mb, todo.disk_mb), _limits(plan.bench.options))


def _limits(options: RunOptions) -> Any:
    from nexus_core.pipeline.guards import Limits

    return Limits(places=(options.run, options.out.absolute().parent))


def _run(given: Mapping[str, Any], reset: bool, last: int, json_events: bool) -> Ended:
    from nexus_core.cli.context import hold_run
    from nexus_core.errors import NexusError
    from nexus_core.pipeline.guards import guarded
    from nexus_core.pipeline.live import watching
    from nexus_core.pipeline.options import idle_flags, options_from
    from nexus_core.pipeline.signals import signals
    from nexus_core.state import StateStore, flags_of, merged, read_state

    with StateStore() as state:
        flags = flags_of(merged(_fresh() if reset else read_state(state.path), given))
        options = options_from(flags)
        hold_run(options.run, create=True)
        if reset:
            _reset(state, options.run)
        with watching("json" if json_events else "auto", options.run) as events, signals(events):
            from nexus_core.pipeline.engine import Engine  # with torch: seconds, in which something is to be seen

            plan = _plan(options, state)
            if misfits := _misfits(plan):
                raise NexusError(f"the plan does not fit: {'; '.join(misfits)}", "see: nexus run --dry-run")
            _check_out(options.out)
            state.merge_flags(given)  # only now: a slip in the command must not stick
            for name in idle_flags(flags):
                events.emit("warning", text=f"{name} stands in {state.path}, and nothing acts on it in this version")
            with guarded(events, _limits(options)):
                ended = Engine(plan, events, state, last).run()
        if not json_events:
            _print_end(plan, ended)
        return ended


def _check_out(out: Path) -> None:
    """Before anything is done for it: stage 6 must not be the first to find that a bundle cannot lie there."""
    from nexus_core.atomic import make_directory
    from nexus_core.bundle.writer import check_place

    make_directory(out.absolute().parent)
    check_place(out)


def _reset(state: StateStore, held: Path) -> None:
    from nexus_core.cli.context import hold_run
    from nexus_core.errors import StateError
    from nexus_core.pipeline.options import RUN
    from nexus_core.pipeline.reset import reset_run
    from nexus_core.state import read_state

    try:
        run = Path(read_state(state.path).get("run", RUN))
    except StateError:  # a broken state is what a reset is for; which run it was about cannot be known
        run = held
    if run.is_dir() and run.resolve() != held.resolve():
        hold_run(run)
    for line in reset_run(run):
        click.echo(line, err=True)
    state.reset()
    click.echo(f"forgotten: {state.path}", err=True)


def _fresh() -> dict[str, Any]:
    from nexus_core.state import SCHEMA_VERSION

    return {"schema_version": SCHEMA_VERSION}


def _print_plan(plan: Plan) -> None:
    from nexus_core.pipeline.plan import STAGES

    rows = []
    for row in plan.rows:
        cost = row.unit.estimate
        status = "done" if row.done else f"again: {row.damage[0]}" if row.damage else "to do"
        numbers = (_time(cost.seconds), f"{cost.memory_mb:,.0f}", f"{cost.disk_mb:,.0f}")
        stage = f"{row.unit.stage} {STAGES[row.unit.stage]}"
        rows.append([stage, row.unit.name, *(("-",) * 3 if row.done else numbers), status])
    print_table(["stage", "unit", "time", "memory MiB", "disk MiB", "status"], rows)
    click.echo()
    selected = [row for row in plan.bench.selection.rows if row.status.value != "selected"]
    print_table(
        ["teacher", "status", "reason", "way out"], [[r.teacher, r.status.value, r.reason, r.how] for r in selected]
    )
    todo, rung = plan.todo, plan.bench.rung
    click.echo(
        f"\nabout {_time(todo.seconds)}, {todo.memory_mb:,.0f} MiB of memory, {todo.disk_mb:,.0f} MiB of disk; "
        f"a contract that is missed adds up to {rung.returns} returns to stage 4 and {rung.growths} to stage 3"
    )


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


def _print_end(plan: Plan, ended: Ended) -> None:
    from nexus_core.cli.verify import print_report

    if ended.report is None:
        click.echo("stopped where --stage says; `nexus run` goes on")
        return
    print_report(ended.report)
    if ended.bundle is not None:
        click.echo(f"bundle: {ended.bundle}")
        click.echo(f"try it: {_trial(plan, ended.bundle)}")
    if ended.page is not None:
        click.echo(f"report: {ended.page}")


def _trial(plan: Plan, bundle: Path) -> str:
    """A command that asks the bundle something, of a capability whose questions are short."""
    import shlex
    from itertools import islice

    from nexus_core.types import SampleRequest, Split

    asked: dict[str, str] = {}
    for name, metric in plan.bench.selection.metrics.items():
        if name in plan.bench.selection.capabilities and not plan.bench.registry.capability(name).isolated:
            for sample in islice(metric.samples(SampleRequest(Split.VERIFY, 1)), 1):
                asked[name] = sample.prompt
    chosen = min(asked, key=lambda name: len(asked[name]))
    return shlex.join(["nexus", "infer", str(bundle), "--capability", chosen, "--prompt", asked[chosen]])
