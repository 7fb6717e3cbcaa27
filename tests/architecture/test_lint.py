"""The linter's bans are in force: the tree is clean, and each banned thing is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def ruff(*arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", str(ROOT / "pyproject.toml")]
    return subprocess.run(
        [*command, *map(str, arguments)], cwd=ROOT, input=text, capture_output=True, text=True, check=False
    )


def test_the_tree_is_clean():
    result = ruff(".")
    assert result.returncode == 0, result.stdout


BANNED = {
    "import pickle": "TID251",
    "from pickle import loads": "TID251",
    "import shelve": "TID251",
    "import marshal": "TID251",
    "def f(path):\n    import torch\n\n    return torch.load(path)": "TID251",
    "import torch": "TID253",
    "import transformers": "TID253",
    "from diffusers import DiffusionPipeline": "TID253",
    "import sklearn.decomposition": "TID253",
    "import bitsandbytes": "TID253",
    "def f():\n    try:\n        return 1\n    except Exception:\n        return 2": "BLE001",
    "def f(a, b, c, d, e, f, g):\n    return 1": "PLR0913",
    "def f(text):\n    return eval(text)": "S307",
    "def f(a):\n    return a": "ANN001",
}


@pytest.mark.parametrize("place", ["nexus_core/probe.py", "plugins/towers/text/src/nexus_tower_text/plugin.py"])
@pytest.mark.parametrize("snippet", BANNED, ids=lambda text: text.splitlines()[-1].strip())
def test_a_banned_thing_is_refused(place, snippet):
    result = ruff("--stdin-filename", place, "--output-format", "concise", "-", text=snippet + "\n")
    assert result.returncode == 1
    assert f" {BANNED[snippet]} " in result.stdout


def test_what_is_allowed_is_not_refused():
    text = '"""A module."""\n\nimport json\n\nprint(json.dumps(1))\n'
    assert ruff("--stdin-filename", "nexus_core/probe.py", "-", text=text).returncode == 0
