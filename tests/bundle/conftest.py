"""A tiny bundle, made once; a test that changes it has a copy of its own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/bundle/tiny_bundle.py as a module."""
    return module_at(Path(__file__).with_name("tiny_bundle.py"))


@pytest.fixture(scope="session")
def bundle_once(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("once") / "bundle")


@pytest.fixture
def bundle(bundle_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle_once, tmp_path / "bundle"))
