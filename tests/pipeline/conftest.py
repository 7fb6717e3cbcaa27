"""Tiny bundles that differ, and a process that is killed at the n-th change it makes to names on the disk."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

CHANGES = {os: ("rename", "replace", "unlink", "rmdir", "mkdir"), shutil: ("rmtree",)}


def die_at(n: int, about: Callable[[str], bool] = lambda place: True) -> None:
    """This process ends before its n-th change of names (of those in question), as by a power cut."""
    left = n

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal left
            left -= about(str(arguments[0]))
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **named)

        return call

    for module, names in CHANGES.items():
        for name in names:
            setattr(module, name, deadly(getattr(module, name)))


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/bundle/tiny_bundle.py as a module."""
    return module_at(Path(__file__).parents[1] / "bundle/tiny_bundle.py")


@pytest.fixture(scope="session")
def bundles_once(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three bundles, by kind."""
    folder = tmp_path_factory.mktemp("kinds")
    return {kind: tiny.make(folder / kind, quantisation=kind) for kind in ("fp32", "fp16", "int8")}


@pytest.fixture
def versioned(bundles_once: dict[str, Path], tmp_path: Path) -> Path:
    """A bundle (int8) that has replaced two: version 1 (fp32) and version 2 (fp16)."""
    shutil.copytree(bundles_once["int8"], tmp_path / "bundle")
    shutil.copytree(bundles_once["fp32"], tmp_path / "bundle.versions/0001")
    shutil.copytree(bundles_once["fp16"], tmp_path / "bundle.versions/0002")
    return tmp_path / "bundle"


def killed(arm: Callable[[], object], work: Callable[[], object]) -> bool:
    """Do it in a process of its own; whether that was killed."""
    child = os.fork()
    if not child:
        status = 1
        try:
            arm()
            work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    assert os.WIFSIGNALED(ended) or os.waitstatus_to_exitcode(ended) == 0, "it failed"
    return os.WIFSIGNALED(ended)


@pytest.fixture
def killed_at() -> Callable[[int, Callable[[], object]], bool]:
    """`killed_at(n, work)`: do it in a process that is killed before its n-th change; whether it was."""
    return lambda n, work: killed(lambda: die_at(n), work)
