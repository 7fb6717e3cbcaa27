"""Tiny checkpoints, built once for all tests of this directory."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus_core.testing import tiny


@pytest.fixture(scope="session")
def _saved(tmp_path_factory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def get(model_type: str) -> Path:
        if model_type not in made:
            made[model_type] = tiny.save_causal_lm(tmp_path_factory.mktemp(model_type), model_type)
        return made[model_type]

    return get


@pytest.fixture(scope="session")
def checkpoint(_saved) -> Callable[[str], Path]:
    """A checkpoint to read from, shared by all tests: `checkpoint("llama")`."""
    return _saved


@pytest.fixture
def own(_saved, tmp_path) -> Callable[[str], Path]:
    """A copy that the test may damage."""

    def copy(model_type: str = "llama") -> Path:
        return Path(shutil.copytree(_saved(model_type), tmp_path / model_type))

    return copy
