"""Sandboxes on poorer machines, played by fork servers that are started from an edited copy of the package."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_capability_code import sandbox

NO_LANDLOCK = ("confine.py", "    version = _libc()", "    return 0\n    version = _libc()")
NO_NAMESPACES = ("confine.py", "    uid, gid = os", "    return ()\n    uid, gid = os")
NO_SECCOMP = ("confine.py", "    _libc().prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, None)", "    return False")
BROKEN_LANDLOCK = ("confine.py", "RESTRICT_SELF = 444, 445, 446", "RESTRICT_SELF = 444, 445, 99999")

Edit = tuple[str, str, str]


@pytest.fixture(scope="session")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes an edited copy of the package; returns the path that `sandbox.__file__` would have in it."""

    def make(*edits: Edit) -> Path:
        package, copy = Path(sandbox.__file__).parent, tmp_path_factory.mktemp("copy") / "nexus_capability_code"
        copy.mkdir()
        for name in ("__init__.py", "runner.py", "confine.py", "values.py", "extract.py", "syscalls.json"):
            (copy / name).write_bytes((package / name).read_bytes())
        for name, old, new in edits:
            text = (copy / name).read_text("utf-8")
            assert text.count(old) == 1, f"{name} no longer holds {old!r}"
            (copy / name).write_text(text.replace(old, new), "utf-8")
        return copy / "sandbox.py"

    return make


@pytest.fixture(scope="session")
def edits() -> dict[str, tuple[Edit, ...]]:
    """Machines by name."""
    return {
        "all layers": (),
        "no namespaces": (NO_NAMESPACES,),
        "seccomp alone": (NO_NAMESPACES, NO_LANDLOCK),
        "nothing": (NO_NAMESPACES, NO_LANDLOCK, NO_SECCOMP),
        "broken Landlock": (BROKEN_LANDLOCK,),
    }
