"""Shared files are found in a checkout, and in a wheel where they lie inside the package."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nexus_core
from nexus_core.resources import shared_path


def test_a_checkout_has_them_at_its_root() -> None:
    root = Path(nexus_core.__file__).resolve().parent.parent
    assert shared_path("registry.yaml") == root / "registry.yaml"
    assert shared_path("template") == root / "plugins" / "_template"


def test_a_wheel_has_them_inside_and_says_when_one_is_missing(tmp_path: Path) -> None:
    package = tmp_path / "nexus_core"
    (package / "_shared").mkdir(parents=True)
    (package / "_shared" / "registry.yaml").write_text("version: 1\n")
    for name in ("__init__.py", "errors.py", "resources.py"):
        shutil.copy(Path(nexus_core.__file__).with_name(name), package / name)
    program = (
        "from nexus_core.resources import shared_path\nfrom nexus_core.errors import NexusError\n"
        "print(shared_path('registry.yaml'))\n"
        "try:\n    shared_path('template')\nexcept NexusError as error:\n    print(error.message, error.hint)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, env=environment, check=True
    )
    found, message = done.stdout.splitlines()
    assert found == str(package / "_shared" / "registry.yaml")
    assert message.startswith("template is missing from this installation")
    assert message.endswith("reinstall nexus-core")
