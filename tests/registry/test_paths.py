"""Where a teacher is, or why it is absent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.registry import Presence, load_registry, resolve_path

Write = Callable[..., Path]


@pytest.fixture
def resolve(write: Write, small: str) -> Callable[[str], Presence]:
    def resolve(path: str) -> Presence:
        return resolve_path(load_registry(write(small.replace("path: null", f'path: "{path}"'))).teacher("ada"))

    return resolve


def test_a_path_is_relative_to_the_registry(resolve: Callable[[str], Presence], tmp_path: Path) -> None:
    model = tmp_path / "models" / "ada"
    model.mkdir(parents=True)
    assert resolve("models/ada") == (None, f"{model} is empty")
    (model / "config.json").write_text("{}")
    assert resolve("models/ada") == (model, "present")
    assert resolve(str(model)) == (model, "present")
    assert resolve("models/ada/config.json").present


def test_an_absent_teacher_has_a_reason(resolve: Callable[[str], Presence], tmp_path: Path) -> None:
    path, reason = resolve("models/ada")
    assert path is None
    assert reason == f"{tmp_path / 'models/ada'} does not exist"


def test_a_place_in_a_package_is_found_without_importing_it(
    resolve: Callable[[str], Presence], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "some_zoo"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "models" / "config.json").write_text("{}")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    assert resolve("package:some_zoo/models") == (package / "models", "present")
    assert resolve("package:some_zoo/gone").reason == "the package some_zoo has no gone"
    assert "some_zoo" not in sys.modules


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("package:no_such_package/models", "the package no_such_package is not installed"),
        ("package:nexus_core/../../etc", "is not of the form package:MODULE/relative/path"),
        ("package:nexus_core", "is not of the form"),
        ("package:", "is not of the form"),
        ("package:/etc/passwd", "is not of the form"),
        ("package:a.b/c", "is not of the form"),
    ],
)
def test_a_package_path_that_leads_nowhere_says_why(resolve: Callable[[str], Presence], path: str, reason: str) -> None:
    presence = resolve(path)
    assert presence.path is None
    assert reason in presence.reason
