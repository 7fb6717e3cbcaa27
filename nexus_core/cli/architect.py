"""`nexus architect`: from the profiles of a run to the student's shape."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN
from nexus_core.profiling import OUTPUT

if TYPE_CHECKING:
    from nexus_core.architect.budget import Budget
    from nexus_core.architect.presets import Presets
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.registry import Registry
    from nexus_core.student.arch import StudentArch


@click.command()
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--preset", default="tiny", show_default=True, help="The student's shape: tiny, small or design.")
@click.option(
    "--presets",
    "file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="A file of presets of yours.",
)
@click.option("--capability", "capabilities", multiple=True, help="Plan this one (repeatable); else all profiled.")
@click.option("--backbone", help="A registry id or a directory (Llama layout) to start from, or random.")
@click.option("--seed", type=int, default=42, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def command(run: Path, file: Path | None, as_json: bool, **options: Any) -> None:
    """Decide the student's shape from the profiles of a run, with a reason for everything: student_arch.json.

    \b
    Examples:
      nexus architect --run runs/default
      nexus architect --preset design --capability reasoning --capability code --backbone random
    """
    from nexus_core.architect.architect import Architect, Request
    from nexus_core.architect.presets import load_presets
    from nexus_core.cli.context import hold_run, open_registry
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.student.arch import ARCH, write_arch

    hold_run(run)
    presets, registry = load_presets(file), open_registry()
    presets.preset(options["preset"])  # a misspelt name is said before any teacher is loaded
    architect = Architect(ProfileStore(run / OUTPUT), registry, presets)
    weights = _weights_now(architect.store, registry, presets, options["capabilities"])
    request = Request(options["preset"], tuple(options["capabilities"]), options["backbone"], options["seed"], weights)
    arch = architect.design(request)
    write_arch(run / ARCH, arch)
    _print_document(arch) if as_json else _print(arch, architect.budget(arch))
    click.echo(f"written to {run / ARCH}", err=as_json)


def _weights_now(
    store: ProfileStore, registry: Registry, presets: Presets, capabilities: tuple[str, ...]
) -> dict[str, str]:
    """The hash of the weights of every profiled teacher that is here and not too large to load for that."""
    from nexus_core.architect.budget import teacher_size
    from nexus_core.architect.candidates import choose, profiled
    from nexus_core.cli.context import load_teacher, open_plugins
    from nexus_core.profiling.run import weights_hash
    from nexus_core.registry import resolve_path

    found = profiled(store)
    wanted, _ = choose(registry, found, capabilities)
    plugins, hashes = open_plugins(), {}
    for name in sorted({teacher for capability in wanted for teacher in found[capability]}):
        row = registry.teacher(name)
        if not resolve_path(row).present:
            click.echo(f"{name}: weights not compared with the profile's, the teacher is not on this machine", err=True)
        elif (size := teacher_size(registry, name)) > presets.compare_weights_up_to:
            click.echo(f"{name}: weights not compared with the profile's, {size:,} parameters are too many", err=True)
        else:
            hashes[name] = weights_hash(load_teacher(plugins, row))
    return hashes


def _print(arch: StudentArch, budget: Budget) -> None:
    from nexus_core.architect.sizes import sizes

    found = sizes(arch)
    rows = [
        [
            adapter.capability + (" (isolated)" if adapter.isolated else ""),
            adapter.teacher,
            ", ".join(f"{site.block}:{site.rank}" for site in adapter.sites),
            str(adapter.delta_rank),
            f"{found.adapters[adapter.capability]:,}",
            ", ".join(site.teacher_block for site in adapter.sites),
        ]
        for adapter in arch.adapters
    ]
    headers = ["capability", "teacher", "block:rank", "delta rank", "parameters", "held to"]
    print_table(headers, rows, f"student {arch.preset}: adapters")
    click.echo()
    limits = {
        part: "; ".join(f"at most {limit.most:,}: {limit.why}" for limit in budget.limits if limit.part == part)
        for part in (*found.parts, "total")
    }
    counts = [[part, f"{count:,}", limits[part]] for part, count in {**found.parts, "total": found.total}.items()]
    print_table(["part", "parameters", "budget"], counts, "parameters")
    click.echo()
    print_table(["decision", "about", "reason"], [[d.action, d.subject, d.reason] for d in arch.decisions], "decisions")


def _print_document(arch: StudentArch) -> None:
    from dataclasses import asdict

    from nexus_core.architect.sizes import sizes

    found = sizes(arch)
    print_json(
        {**asdict(arch), "parameters": {**found.parts, "total": found.total, "by_adapter": dict(found.adapters)}}
    )
