"""`nexus study`: the same student taught in several ways at the same budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nexus_core.cli.output import print_json, print_table
from nexus_core.cli.profile import RUN

if TYPE_CHECKING:
    from nexus_core.evaluation import Answerer
    from nexus_core.plugins import Plugins
    from nexus_core.registry import Registry
    from nexus_core.study.study import StudyOrder, Subject

PATH = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@click.option("--run", type=RUN, default=Path("runs/default"), show_default=True, help="The run's directory.")
@click.option("--arm", "names", multiple=True, help="Only this arm; may be given more than once.")
@click.option("--capability", "capabilities", multiple=True, help="Only this capability; may be given more than once.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each training in all (the preset says how many).")
@click.option("--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Students of each arm.")
@click.option(
    "--samples", type=click.IntRange(min=1), default=500, show_default=True, help="Answers on each verify split."
)
@click.option(
    "--workers", type=click.IntRange(min=0), default=0, help="Threads that share a step (0: one for each core)."
)
@click.option("--device", default="cpu", show_default=True, help="Where to train and answer: cpu or cuda.")
@click.option("--tokenizer", type=PATH, help="A tokenizer's directory, for a backbone with random weights.")
@click.option("--plot", is_flag=True, help="Also draw the learning curves, to study/curves.png.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of tables.")
def command(
    names: tuple[str, ...],
    capabilities: tuple[str, ...],
    tokenizer: Path | None,
    plot: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Teach the planned student in every arm of the study and score what comes out on the verify split.

    The arms are no_teacher, logits_only, no_anchor and full (nexus_core/study/arms.yaml). A unit, one arm with one seed,
    that is finished is not done again, and one that was killed goes on.

    \b
    Examples:
      nexus study --run runs/default
      nexus study --run runs/default --arm full --arm logits_only --steps 300 --seeds 2 --samples 200
      nexus study --run runs/default --plot --json
    """
    from nexus_core.cli.context import hold_run
    from nexus_core.study.arms import read_arms
    from nexus_core.study.study import Study, StudyOrder

    arms = read_arms()
    order = StudyOrder(arms=arms.chosen(names), **options)
    hold_run(order.run)
    subject = _subject(order, capabilities, tokenizer)
    started = time.perf_counter()
    found = Study(
        order, subject, arms, lambda text: click.echo(f"[{time.perf_counter() - started:6.1f} s] {text}", err=True)
    ).run()
    print_json(found) if as_json else _print(found)
    if plot:
        from nexus_core.study.plots import draw

        path = order.folder / "curves.png"
        draw(order.folder, found, path)
        click.echo(f"drawn to {path}", err=as_json)


def _subject(order: StudyOrder, capabilities: tuple[str, ...], tokenizer: Path | None) -> Subject:
    from nexus_core.cli.context import open_plugins, open_registry
    from nexus_core.distill.material import Gatherer
    from nexus_core.distill.run import check_device, gather, new_student
    from nexus_core.distill.settings import read_teaching
    from nexus_core.distill.vocabulary import read_vocabulary
    from nexus_core.profiling import OUTPUT
    from nexus_core.profiling.artifacts import ProfileStore
    from nexus_core.student.arch import ARCH, read_arch
    from nexus_core.study.study import Subject, TeacherOf

    arch, registry, plugins = read_arch(order.run / ARCH), open_registry(), open_plugins(None)
    check_device(order.device)
    preset = read_teaching(arch.preset)
    chosen = [arch.adapter(name).capability for name in capabilities] or [a.capability for a in arch.adapters]
    gatherer = Gatherer(order.run, registry, plugins, preset.data)
    student = new_student(arch, registry, tokenizer, order.device)
    materials = gather(gatherer, student, chosen)
    profiles = {name: ProfileStore(order.run / OUTPUT).read(m.arch.teacher, name) for name, m in materials.items()}

    def gold() -> Mapping[str, Any]:
        words = read_vocabulary(student.tokenizer)
        return {name: gatherer.without_teacher(m, arch, words, profiles[name].seed) for name, m in materials.items()}

    return Subject(
        arch=arch,
        preset=preset,
        build=lambda planned: new_student(planned, registry, tokenizer, order.device),
        materials=materials,
        gold=gold,
        teachers={
            name: TeacherOf(p.teacher, p.weights_hash, _loader(registry, plugins, p.teacher))
            for name, p in profiles.items()
        },
    )


def _loader(registry: Registry, plugins: Plugins, teacher: str) -> Any:
    def load() -> Answerer | None:
        from nexus_core.cli.context import load_teacher
        from nexus_core.registry import resolve_path

        row = registry.teacher(teacher)
        return None if resolve_path(row).path is None else load_teacher(plugins, row)

    return load


def _print(found: Mapping[str, Any]) -> None:
    from nexus_core.study.table import arm_rows, gain_rows

    print_table(*arm_rows(found, found["capabilities"]))
    if found["comparisons"]:
        click.echo()
        print_table(*gain_rows(found))
    click.echo()
    for note in found["notes"]:
        click.echo(note)
    click.echo(found["verdict"])
