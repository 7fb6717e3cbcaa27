"""One world for all tests of `nexus run`; what a whole run leaves is made once and copied."""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.cli.main import main


@dataclass(frozen=True)
class Ended:
    """How `nexus run` ended."""

    status: int
    out: str
    err: str

    @property
    def did(self) -> list[str]:
        """The units that it did, and did not merely find."""
        lines = [line.strip() for line in self.err.splitlines()]
        return [line for line in lines if "started" in line]


@pytest.fixture(scope="session")
def made(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/pipeline/run/run_world.py as a module."""
    return module_at(Path(__file__).with_name("run_world.py"))


@pytest.fixture(scope="session")
def world_once(
    made: ModuleType,
    module_at: Callable[[Path], ModuleType],
    new_site: Callable[[], Any],
    tmp_path_factory: pytest.TempPathFactory,
) -> Any:
    root, site = tmp_path_factory.mktemp("world"), new_site()
    made.build(root, site, module_at(Path(__file__).parents[2] / "gate/gate_world.py"))
    (root / "here").mkdir()
    return made.World(root, site.path, root / "here")


@contextmanager
def inside(made: ModuleType, world: Any, steps: int = 120) -> Iterator[None]:
    """This process sees the world's plugins and registry, and stands in its working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(world.site))
        patch.setenv("NEXUS_REGISTRY", str(world.registry))
        patch.chdir(world.here)
        with made.small_numbers(world.root, steps):
            yield


def call(*arguments: object) -> Ended:
    """The command as the shell runs it, funnel and all."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["--debug", "run", *map(str, arguments)])
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def passed_once(made: ModuleType, world_once: Any) -> Ended:
    """A whole run in the world's own directory."""
    with inside(made, world_once):
        return call("--plugins", "letters,errors")


@pytest.fixture
def world(made: ModuleType, world_once: Any, tmp_path: Path) -> Iterator[Any]:
    """An empty working directory."""
    (tmp_path / "here").mkdir()
    found = made.World(world_once.root, world_once.site, tmp_path / "here")
    with inside(made, found):
        yield found


@pytest.fixture
def after(made: ModuleType, world_once: Any, passed_once: Ended, tmp_path: Path) -> Iterator[Any]:
    """A working directory in which a run has passed."""
    assert passed_once.status == 0, passed_once.err
    found = made.copy_of(world_once, tmp_path / "here")
    with inside(made, found):
        yield found


@pytest.fixture
def nexus_run() -> Callable[..., Ended]:
    return call


@pytest.fixture
def private(made: ModuleType, world_once: Any, tmp_path: Path) -> Callable[[Any], Any]:
    """The same working directory in a world of its own, whose registry and teachers may be changed."""

    def split(world: Any) -> Any:
        root = tmp_path / "root"
        shutil.copytree(world_once.root / "teachers", root / "teachers")
        shutil.copy(world_once.root / "registry.yaml", root / "registry.yaml")
        os.environ["NEXUS_REGISTRY"] = str(root / "registry.yaml")
        return made.World(root, world.site, world.here)

    return split
