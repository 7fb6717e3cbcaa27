"""Plugins as pip would leave them: real distributions in a directory on `sys.path`, good or broken."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

HEAD = "from nexus_core.hooks import hookimpl\nNEXUS_API = 1\n"
NEXUS = [sys.executable, "-c", "from nexus_core.cli.main import main; main()"]


@dataclass
class Site:
    """A directory of installed distributions. `add` writes one with its dist-info; `nexus` runs the CLI that sees them."""

    path: Path
    packages: list[str] = field(default_factory=list)

    def add(self, kind: str, name: str, source: str, **extra: object) -> str:
        """Install plugin `name` of `kind` whose plugin.py is `source`; returns the package's name.

        `extra`: distribution, requires (list), entry (the entry point's value), files (relative path -> text),
        entries (more entry-point lines, group -> lines), provides (list of extras).
        """
        package = str(extra.get("package") or f"nexus_{kind}_{name}")
        distribution = str(extra.get("distribution") or f"nexus-{kind}-{name}".replace("_", "-"))
        files = {"__init__.py": "", "plugin.py": textwrap.dedent(source)}
        more = extra.get("files") or {}
        assert isinstance(more, Mapping)
        for relative, text in {**files, **more}.items():
            target = self.path / package / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(textwrap.dedent(text), encoding="utf-8")
        group = {"capability": "nexus.capabilities"}.get(kind, f"nexus.{kind}s")
        entry = extra.get("entry") or f"{package}.plugin"
        entries = f"[{group}]\n{name} = {entry}\n{extra.get('entries', '')}"
        requires = extra.get("requires", ["nexus-core>=0.1,<0.2"])
        assert isinstance(requires, Sequence)
        self.distribution(distribution, requires=requires, entry_points=entries, files=[f"{package}/plugin.py"])
        self.packages.append(package)
        return package

    def distribution(
        self, name: str, version: str = "0.1.0", requires: Sequence[str] = (), entry_points: str = "", **extra: object
    ) -> Path:
        """Write the dist-info of a distribution: METADATA, RECORD and, if any, entry_points.txt."""
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Provides-Extra: {extra_name}" for extra_name in extra.get("provides", ())]  # type: ignore[attr-defined]
        lines += [f"Requires-Dist: {text}" for text in requires]
        (info / "METADATA").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if entry_points:
            (info / "entry_points.txt").write_text(entry_points, encoding="utf-8")
        recorded = [*extra.get("files", ()), *(f"{info.name}/{p.name}" for p in sorted(info.iterdir()))]  # type: ignore[misc]
        (info / "RECORD").write_text("".join(f"{path},,\n" for path in recorded), encoding="utf-8")
        importlib.invalidate_caches()
        return info

    def nexus(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """`nexus ARGUMENTS` in a process of its own."""
        return self.run([*NEXUS, *arguments], **environment)

    def python(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.run([sys.executable, "-c", textwrap.dedent(code)], **environment)

    def run(self, command: Sequence[str], **environment: str) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(filter(None, [str(self.path), os.environ.get("PYTHONPATH", "")]))
        plain = {key: value for key, value in os.environ.items() if not key.startswith("NEXUS_")}
        return subprocess.run(
            command,
            env={**plain, "PYTHONPATH": path, "COLUMNS": "200", **environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


@pytest.fixture(scope="session")
def module_at() -> Callable[[Path], ModuleType]:
    """`module_at(path)`: a file beside the tests as a module, once. Tests cannot import each other."""

    def load(path: Path) -> ModuleType:
        name = "_".join(["tests", *path.relative_to(Path(__file__).parent).with_suffix("").parts])
        if name not in sys.modules:
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            sys.modules[name] = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    return load


@pytest.fixture(scope="session")
def new_site(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Site]:
    """Sites for subprocesses only: this process does not see them."""
    return lambda: Site(tmp_path_factory.mktemp("site"))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site that this process sees too, until the test ends."""
    path = tmp_path / "site-packages"
    path.mkdir()
    monkeypatch.syspath_prepend(str(path))
    here = Site(path)
    yield here
    for name in [name for name in sys.modules if name.split(".")[0] in here.packages]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def make_plugin(site: Site) -> Callable[..., str]:
    """`make_plugin(kind, name, source, ...)` installs a plugin into this test's site."""
    return site.add
