"""Two tiny bundles, of the students in students.py, and what is loaded from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from nexus import NexusModel


@pytest.fixture(scope="session")
def students(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """students.py as a module."""
    return module_at(Path(__file__).with_name("students.py"))


@pytest.fixture(scope="session")
def random_bundle(students: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return students.write(tmp_path_factory.mktemp("random") / "bundle", students.random_student())


@pytest.fixture(scope="session")
def without_isolated(students: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same student, which never had the isolated adapter."""
    own = students.random_student(students.ADAPTERS[:2])
    return students.write(tmp_path_factory.mktemp("without") / "bundle", own)


@pytest.fixture(scope="session")
def chain_bundle(students: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return students.write(tmp_path_factory.mktemp("chain") / "bundle", students.chain_student())


@pytest.fixture(scope="session")
def random_model(random_bundle: Path) -> NexusModel:
    return NexusModel.load(random_bundle)


@pytest.fixture(scope="session")
def chain_model(chain_bundle: Path) -> NexusModel:
    return NexusModel.load(chain_bundle)


@pytest.fixture
def copied(random_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to damage."""
    return Path(shutil.copytree(random_bundle, tmp_path / "copy"))


@pytest.fixture(scope="session")
def prompts(students: ModuleType) -> list[str]:
    return students.PROMPTS


@pytest.fixture(scope="session")
def words(students: ModuleType) -> list[str]:
    """What the chain writes after a question mark."""
    return students.WORDS


@pytest.fixture(scope="session")
def call(students: ModuleType) -> str:
    """What the chain writes after "JSON:"."""
    return "".join(students.CALL)
