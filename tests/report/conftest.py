"""A run that has everything is made once; each test has a copy, or an empty one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.report.collect import ReportOrder, collect
from nexus_core.report.page import render

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def made(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    """tests/report/made_run.py as a module."""
    return module_at(Path(__file__).with_name("made_run.py"))


@pytest.fixture(scope="session")
def installed(
    module_at: Callable[[Path], ModuleType], new_site: Callable[[], Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[ModuleType, Path, Path]:
    """The gate's tiny world, of which the capability pack and the registry are used: (module, site, registry)."""
    world, root, site = module_at(TESTS / "gate/gate_world.py"), tmp_path_factory.mktemp("report"), new_site()
    site.add("capability", "letters", world.PACK)
    world.write_registry(root)
    return world, site.path, root / "registry.yaml"


@pytest.fixture
def here(installed: tuple[ModuleType, Path, Path], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """This process sees the pack and the registry."""
    world, site, registry = installed
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("NEXUS_REGISTRY", str(registry))
    return world


@pytest.fixture(scope="session")
def run_once(
    installed: tuple[ModuleType, Path, Path],
    made: ModuleType,
    module_at: Callable[[Path], ModuleType],
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    world, site, registry = installed
    path = tmp_path_factory.mktemp("made") / "a run"
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("NEXUS_REGISTRY", str(registry))
        made.build(path, world, module_at(TESTS / "profiling/made_profile.py"))
    return path


@pytest.fixture
def run(run_once: Path, here: ModuleType, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run_once, tmp_path / "a run"))


@pytest.fixture
def collected(run: Path) -> dict[str, Any]:
    """report.json of the whole run, the student asked."""
    return collect(ReportOrder(run, open_registry(), open_plugins()))


@pytest.fixture
def page(collected: dict[str, Any]) -> str:
    return render(collected)
