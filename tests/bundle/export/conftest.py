"""The tiny student of small_bundle.py, and bundles of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nexus_core.student.files import Student


@pytest.fixture(scope="session")
def small(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).with_name("small_bundle.py"))


@pytest.fixture(scope="session")
def tokenizer(small) -> Any:
    return small.byte_level()


@pytest.fixture
def other_tokenizer(small) -> Callable[..., Any]:
    return small.byte_level


@pytest.fixture
def make(small, tokenizer) -> Callable[..., Student]:
    return lambda **backbone: small.make_student(tokenizer, **backbone)


@pytest.fixture
def student(make) -> Student:
    return make()


@pytest.fixture(scope="session")
def bundle_with(small, tmp_path_factory) -> Callable[..., Path]:
    """A bundle whose contracts ask for this share of a teacher that scored 0.5, or for this minimum only."""
    return lambda *contract: small.make_bundle(tmp_path_factory.mktemp("bundle") / "made", *contract)


@pytest.fixture
def ids(small) -> torch.Tensor:
    return torch.randint(4, small.VOCABULARY, (3, 21), generator=torch.Generator().manual_seed(3))
