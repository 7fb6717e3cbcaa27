"""Nothing is silently left out: every teacher of the registry ends with a status, a reason, and a way out."""

from __future__ import annotations

import pytest

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.errors import DataError, ModelError, RegistryError
from nexus_core.pipeline.options import options_from
from nexus_core.pipeline.selection import Pair, Selection, Selector


def select(
    names: str | None = None, kept: tuple[Pair, ...] = (), towers: tuple[str, ...] = ("text",), **flags: object
) -> Selection:
    given = {**flags, **({"plugins": names.split(",")} if names else {})}
    return Selector(open_registry(), open_plugins(names), options_from(given), towers, kept).select()


def row(selection: Selection, teacher: str):
    return next(row for row in selection.rows if row.teacher == teacher)


def test_everything_that_is_here(world) -> None:
    found = select()
    assert [pair.name for pair in found.pairs] == ["ada/letters", "bob/errors"]
    assert found.capabilities == ["errors", "letters"]
    assert row(found, "far").status == "absent" and "does not exist" in row(found, "far").reason


def test_a_capability_that_no_selected_plugin_measures(world) -> None:
    found = select("letters")
    assert [pair.name for pair in found.pairs] == ["ada/letters"]
    assert row(found, "bob").status == "dropped" and "no plugin of --plugins measures it" in row(found, "bob").reason


def test_named_teachers(world) -> None:
    found = select(teachers=["bob"])
    assert [pair.name for pair in found.pairs] == ["bob/errors"]
    assert row(found, "ada").reason == "not among --teachers"
    with pytest.raises(ModelError, match="teacher far is absent"):
        select(teachers=["far"])
    with pytest.raises(RegistryError, match="bop"):
        select(teachers=["bop"])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("license: MIT", "license: 'unknown: nobody has read it'", "licence"),
        ("    license: MIT\n", "    license: MIT\n    fate: {action: drop, reason: too old}\n", "dropped: too old"),
    ],
)
def test_a_row_that_forbids_it(world, made, old, new, says) -> None:
    text = world.registry.read_text()
    world.registry.write_text(text.replace(old, new, 1))  # ada is the first
    found = select()
    assert row(found, "ada").status == "dropped" and says in row(found, "ada").reason
    assert [pair.name for pair in found.pairs] == ["bob/errors"]


def test_an_isolated_capability_is_opt_in(world, made) -> None:
    made.write_registry(world.root, {"description: the same table": "isolated: true\n    description: the same table"})
    assert "isolated: it is opt-in" in row(select(), "bob").reason
    assert [pair.name for pair in select("letters,errors").pairs] == ["ada/letters", "bob/errors"]


def test_a_tower_that_the_preset_does_not_have(world) -> None:
    with pytest.raises(DataError, match="the preset tiny has no tower text"):
        select(towers=("voice",))


def test_what_was_taught_stays_whatever_is_selected_now(world, tmp_path) -> None:
    kept = (Pair("ada", "letters"),)
    found = select(teachers=["bob"], kept=kept)
    assert [pair.name for pair in found.pairs] == ["ada/letters", "bob/errors"]
    assert row(found, "ada").status == "selected" and "taught before" in row(found, "ada").reason


def test_who_comes_late_to_a_capability_is_told_so(world, made) -> None:
    made.write_registry(world.root, {"capabilities: [errors]": "capabilities: [errors, letters]"})
    found = select(kept=(Pair("ada", "letters"),))
    assert [pair.name for pair in found.pairs] == ["ada/letters", "bob/errors"]
    assert "letters is taught already, by ada" in row(found, "bob").reason


def test_a_plugin_that_is_gone_is_missed_by_name(world) -> None:
    with pytest.raises(DataError, match="the student was taught letters") as error:
        select("errors", kept=(Pair("ada", "letters"),))
    assert "nexus-capability-letters" in error.value.hint
