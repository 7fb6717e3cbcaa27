"""The import law: import-linter's contracts hold, and they cover every module and every plugin that there is."""

from __future__ import annotations

import ast
import configparser
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = sorted(path.parent for path in ROOT.glob("plugins/[!_]*/*/src/*/__init__.py"))
PUBLIC = {"hooks", "types", "errors", "hf", "data", "testing", "student"}
LINT = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]


@pytest.fixture(scope="module")
def contracts() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / ".importlinter")
    return parser


def lint(where: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(LINT, cwd=where, capture_output=True, text=True, check=False)


def test_the_contracts_hold():
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout
    assert "0 broken" in result.stdout


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("nexus_core/types.py", "import nexus_core.plugins"),
        pytest.param("nexus_core/plugins.py", "import nexus_core.cli.main", marks=pytest.mark.slow),
        pytest.param("nexus_core/plugins.py", "import nexus_tower_text", marks=pytest.mark.slow),
        pytest.param("nexus/__init__.py", "import nexus_core.registry", marks=pytest.mark.slow),
    ],
)
def test_the_contracts_break_when_the_law_is_broken(tmp_path, module, line):
    for part in ("nexus", "nexus_core"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".importlinter", tmp_path)
    path = tmp_path / module
    path.write_text(f"{path.read_text()}\n{line}\n")
    assert re.search(r"[1-9] broken", lint(tmp_path).stdout)


def test_every_plugin_is_forbidden_to_the_core(contracts):
    forbidden = set(contracts["importlinter:contract:no-plugins"]["forbidden_modules"].split())
    assert {package.name for package in PACKAGES} == forbidden


def test_every_module_of_the_core_has_its_layer(contracts):
    layers = set(re.findall(r"nexus_core\.\w+", contracts["importlinter:contract:layers"]["layers"]))
    modules = {path.stem for path in (ROOT / "nexus_core").glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in (ROOT / "nexus_core").glob("*/__init__.py")}
    assert {f"nexus_core.{name}" for name in modules} - layers == set()


# --- what a plugin may import ------------------------------------------------------------------------------------------


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """(module, imported name or an empty string) of each import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.module or "", alias.name) for alias in node.names)


def breaches(path: Path, package: str) -> list[str]:
    found = []
    for module, name in imports(path):
        top, *rest = module.split(".")
        if top.startswith(("nexus_teacher_", "nexus_capability_", "nexus_tower_")) and top != package:
            found.append(f"imports the plugin {top}")
        if top == "nexus_core":
            below = rest[0] if rest else name
            if below not in PUBLIC | {""}:
                found.append(f"imports nexus_core.{below}, which is not public")
            if any(part.startswith("_") for part in [*rest, name]):
                found.append(f"imports the private {module}.{name}")
    return found


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_plugin_imports_public_api_only(package):
    found = {
        str(path.relative_to(ROOT)): problems
        for path in package.rglob("*.py")
        if (problems := breaches(path, package.name)) and "recipes" not in path.parts  # a tool beside the plugin
    }
    assert found == {}


@pytest.mark.parametrize(
    "line",
    [
        "import nexus_tower_text",
        "from nexus_capability_math.pack import M",
        "from nexus_core.plugins import Plugins",
        "from nexus_core import discovery",
        "from nexus_core.hf.load import _config",
        "def f():\n    import nexus_core.cli.main",
    ],
)
def test_a_breach_is_seen(tmp_path, line):
    path = tmp_path / "x.py"
    path.write_text(line)
    assert len(breaches(path, "nexus_teacher_x")) == 1


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_names_follow_the_kind(package):
    """plugins/<kind>s/<name>/src/nexus_<kind>_<name>, with a plugin.py that declares its API and a conformance.py."""
    name = package.parents[1].name
    kind = {"capabilities": "capability"}.get(package.parents[2].name, package.parents[2].name.rstrip("s"))
    assert package.name == f"nexus_{kind}_{name}"
    assert re.search(r"^NEXUS_API = 1$", (package / "plugin.py").read_text(), re.MULTILINE)
    assert (package / "conformance.py").is_file()
    assert list((package.parents[1] / "tests").glob("test_*.py")), "a plugin has tests"
