"""What a command says about a teacher that is not here."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nexus_core.cli.context import load_teacher
from nexus_core.errors import ModelError
from nexus_core.plugins import Plugins
from nexus_core.registry import find_registry, load_registry


def hint_for(path: str | None) -> str:
    row = next(iter(load_registry(find_registry()).teachers.values()))
    with pytest.raises(ModelError, match=f"teacher {row.id} is absent") as error:
        load_teacher(Plugins(), replace(row, path=path))
    return error.value.hint


def test_a_package_that_is_not_installed() -> None:
    assert hint_for("package:no_such_zoo/weights/ada").startswith("pip install no-such-zoo, ")


def test_weights_that_the_package_lacks() -> None:
    hint = hint_for("package:nexus_core/weights/ada")
    assert hint.startswith("install a version of nexus_core that has it") and "make zoo" in hint
    assert "set `path:`" not in hint


@pytest.mark.parametrize("path", [None, "models/no-such-directory", "package:"])
def test_a_place_of_ones_own(path: str | None) -> None:
    assert "set `path:` of its row" in hint_for(path)
