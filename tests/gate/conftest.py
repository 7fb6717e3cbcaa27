"""The gate's world is made once; each test has a run of its own in it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
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


@pytest.fixture
def verify(world: Any, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """The command as the shell runs it, funnel and all."""

    def run(*arguments: object) -> Ended:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["verify", "--run", str(world.run), *map(str, arguments)])
        said, path = capsys.readouterr(), world.run / "verify_report.json"
        report = json.loads(path.read_text()) if path.exists() else None
        return Ended(int(ended.value.code or 0), said.out, said.err, report)

    return run
