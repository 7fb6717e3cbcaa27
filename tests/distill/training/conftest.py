"""The tiny training, for the tests of the loop."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/distill/training/tiny_job.py as a module."""
    return module_at(Path(__file__).with_name("tiny_job.py"))
