"""One world for all tests of `nexus run`; what a run leaves is made once and copied."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.cli.main import main

STEPS = 100


@dataclass(frozen=True)
class Ended:
    """How `nexus run` ended."""

    status: int
    out: str
    err: str


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
    return made.World(root, site.path, root / "here")


@contextmanager
def inside(made: ModuleType, world: Any, steps: int = STEPS) -> Iterator[None]:
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
        main(["run", *map(str, arguments)])
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def _once(made: ModuleType, world: Any, here: Path, *arguments: object) -> Any:
    """A working directory in which this run has ended well."""
    here.mkdir()
    found = made.World(world.root, world.site, here)
    with inside(made, found):
        ended = call("--plugins", "letters,errors", *arguments)
    assert ended.status == 0, ended.err
    return found


@pytest.fixture(scope="session")
def taught_once(made: ModuleType, world_once: Any) -> Any:
    """Stages 0 to 4."""
    return _once(made, world_once, world_once.root / "taught", "--stage", 4)


@pytest.fixture(scope="session")
def passed_once(made: ModuleType, world_once: Any) -> Any:
    """All stages."""
    return _once(made, world_once, world_once.root / "passed")


@pytest.fixture
def world(made: ModuleType, world_once: Any, tmp_path: Path) -> Iterator[Any]:
    """An empty working directory, in a world whose registry may be changed."""
    yield from _own(made, world_once, None, tmp_path)


@pytest.fixture
def taught(made: ModuleType, world_once: Any, taught_once: Any, tmp_path: Path) -> Iterator[Any]:
    """A working directory after stages 0 to 4, in a world of its own."""
    yield from _own(made, world_once, taught_once, tmp_path)


@pytest.fixture
def passed(made: ModuleType, world_once: Any, passed_once: Any, tmp_path: Path) -> Iterator[Any]:
    """A working directory after a whole run, in a world of its own."""
    yield from _own(made, world_once, passed_once, tmp_path)


def _own(made: ModuleType, world: Any, after: Any, tmp_path: Path) -> Iterator[Any]:
    here = tmp_path / "here"
    shutil.copytree(after.here, here) if after else here.mkdir()
    (tmp_path / "teachers").symlink_to(world.root / "teachers")
    shutil.copy(world.registry, tmp_path)
    found = made.World(tmp_path, world.site, here)
    with inside(made, found):
        yield found


@pytest.fixture
def nexus_run() -> Callable[..., Ended]:
    return call
