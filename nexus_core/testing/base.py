"""What holds for a plugin of any kind: its metadata, its imports, its API version, its hook signatures."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from nexus_core.discovery import PluginRef, discover, load, new_manager
from nexus_core.plugins import Plugins
from nexus_core.types import Kind

# A plugin module that imports one of these at its top makes every command slow, `nexus --help` included.
HEAVY = ("torch", "transformers", "diffusers", "bitsandbytes", "sklearn", "scipy", "numpy", "pandas", "pyarrow")


class CheckFailed(AssertionError):
    """A plugin does not hold to the contract of its kind; the message says what to change."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise CheckFailed(message)


class Conformance:
    """Base of all conformance classes. A subclass sets `plugin` to the entry point's name.

    Each method called `test_*` is one check: its docstring's first line is the check's name in the table.
    """

    kind: ClassVar[Kind]
    plugin: ClassVar[str] = ""
    ref: PluginRef | None = None  # given for a plugin that is checked from a path; found by name otherwise

    @cached_property
    def subject(self) -> PluginRef:
        if self.ref is not None:
            return self.ref
        found = [ref for ref in discover() if ref.kind is self.kind and ref.name == self.plugin]
        require(bool(found), f"no installed {self.kind.value} plugin is called {self.plugin!r}; install it with pip -e")
        return found[0]

    @cached_property
    def plugins(self) -> Plugins:
        """A facade in which this plugin is required (so that its faults are errors) beside all others."""
        return Plugins(extra=[self.subject])

    @cached_property
    def alone(self) -> Plugins:
        """A facade that knows this plugin only."""
        return Plugins([], extra=[self.subject])

    @contextmanager
    def workdir(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="nexus-check-") as name:
            yield Path(name)

    def test_metadata(self) -> None:
        """metadata: names follow nexus-<kind>-<name>, and the core is a declared dependency"""
        ref = self.subject
        distribution = f"nexus-{self.kind.value}-{ref.name}".replace("_", "-")
        package = f"nexus_{self.kind.value}_{ref.name}".replace("-", "_")
        require(
            ref.distribution.replace("_", "-").lower() == distribution or ref.package != package,
            f"the distribution is called {ref.distribution!r}, expected {distribution!r}",
        )
        require(
            ref.module.startswith(f"{ref.package}."), f"entry point {ref.module!r} is not a module inside a package"
        )
        needs = [text for text in ref.requires if text.replace("_", "-").lower().startswith("nexus-core")]
        require(bool(needs), "pyproject.toml does not declare nexus-core as a dependency")

    def test_lazy_import(self) -> None:
        """lazy import: the plugin module imports nothing heavy"""
        module = self.subject.module.split(":")[0]
        code = f"import sys, {module}; print(*[m for m in {HEAVY!r} if m in sys.modules])"
        path = [p for p in sys.path if p]
        result = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        require(result.returncode == 0, f"import {module} failed: {(result.stderr.strip().splitlines() or ['?'])[-1]}")
        heavy = result.stdout.split()
        require(not heavy, f"import {module} pulls in {', '.join(heavy)}; import it inside the function that needs it")

    def test_loads(self) -> None:
        """hooks: API version, hook names and arguments fit the specifications"""
        status = load(self.subject, new_manager())
        require(status.ok, status.reason)
