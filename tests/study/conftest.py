"""The tiny study, for all tests of studies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/study/tiny_study.py as a module."""
    return module_at(Path(__file__).with_name("tiny_study.py"))
