"""The gate's world is made once; each test has a run of its own in it."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.cli.main import main


@pytest.fixture(scope="session")
def made(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/gate/gate_world.py as a module."""
    return module_at(Path(__file__).with_name("gate_world.py"))


@pytest.fixture(scope="session")
def world_once(made: ModuleType, new_site: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory) -> Any:
    root, site = tmp_path_factory.mktemp("gate"), new_site()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site.path))
        patch.setenv("NEXUS_REGISTRY", str(root / "registry.yaml"))
        made.build(root, site)
    return made.World(root, site.path, root / "run")


@pytest.fixture
def world(made: ModuleType, world_once: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """This process sees its plugins and its registry; the teachers are there before and after."""
    monkeypatch.syspath_prepend(str(world_once.site))
    monkeypatch.setenv("NEXUS_REGISTRY", str(world_once.registry))
    yield made.World(world_once.root, world_once.site, Path(shutil.copytree(world_once.run, tmp_path / "run")))
    assert sorted(path.name for path in (world_once.root / "teachers").iterdir()) == ["ada", "bob"]


@dataclass(frozen=True)
class Ended:
    """How `nexus verify` ended, and the report that it left."""

    status: int
    out: str
    err: str
    report: dict[str, Any] | None


def run_verify(run: Path, *arguments: object) -> Ended:
    """The command as the shell runs it, funnel and all."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
        main(["verify", "--run", str(run), *map(str, arguments)])
    path = run / "verify_report.json"
    report = json.loads(path.read_text()) if path.exists() else None
    return Ended(int(ended.value.code or 0), out.getvalue(), err.getvalue(), report)


@pytest.fixture
def verify(world: Any) -> Callable[..., Ended]:
    return lambda *arguments: run_verify(world.run, *arguments)


@pytest.fixture(scope="session")
def passed_once(world_once: Any) -> Ended:
    """What the command says of the honest student."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(world_once.site))
        patch.setenv("NEXUS_REGISTRY", str(world_once.registry))
        ended = run_verify(world_once.run)
    (world_once.run / "verify_report.json").unlink()
    return ended


@pytest.fixture
def passed(passed_once: Ended, world: Any) -> Any:
    """A world whose run holds the report of a pass."""
    assert passed_once.status == 0
    (world.run / "verify_report.json").write_text(json.dumps(passed_once.report))
    return world
