"""`python -m nexus_teacher_zoo.recipes train NAME | all | card NAME`: make the zoo again, or measure it again."""

from __future__ import annotations

import click

from nexus_teacher_zoo.recipes.card import card
from nexus_teacher_zoo.recipes.recipe import WEIGHTS, load_recipe, recipe_names
from nexus_teacher_zoo.recipes.train import Run, train
from nexus_teacher_zoo.recipes.train import main as train_command


@click.group()
def main() -> None:
    """Recipes of the zoo's teachers."""


@main.command(name="all")
@click.option("--threads", type=int, default=1, show_default=True)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--missing", is_flag=True, help="Only those that have no weights yet.")
def everything(threads: int, device: str, missing: bool) -> None:
    """Train every teacher, one after the other (an hour or two on two cores)."""
    for name in recipe_names():
        if not (missing and (WEIGHTS / name / "card.yaml").is_file()):
            train(load_recipe(name), Run(WEIGHTS / name, None, threads, device))


main.add_command(train_command, "train")
main.add_command(card)

if __name__ == "__main__":
    main()
