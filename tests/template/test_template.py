"""`nexus plugins new` writes a plugin of each kind that passes its own checks, from its path and installed."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from nexus_core.errors import NexusError, UsageError
from nexus_core.resources import shared_path
from nexus_core.template import TOKEN, generate
from nexus_core.testing.run import refs_of_project, run_checks
from nexus_core.types import Kind

ROOT = Path(__file__).parents[2]


@pytest.fixture
def path_restored(monkeypatch):
    """`refs_of_project` puts a project's src on `sys.path`; here it leaves with the test."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if re.match(r"nexus_(teacher|capability|tower)_(demo|my_own|template)", name):
            del sys.modules[name]


@pytest.mark.parametrize("name", ["demo", "my_own2"])
@pytest.mark.parametrize("kind", Kind)
def test_generated_plugin_passes_every_check(tmp_path, path_restored, kind, name):
    root = generate(kind, name, tmp_path)
    (ref,) = refs_of_project(root)
    assert (ref.kind, ref.name) == (kind, name)
    assert ref.distribution == f"nexus-{kind}-{name}".replace("_", "-")
    results = list(run_checks(ref))
    assert [(r.check, r.detail) for r in results if not r.ok] == []
    assert len(results) >= 7


@pytest.mark.parametrize("kind", Kind)
def test_the_token_is_replaced_everywhere(tmp_path, kind):
    root = generate(kind, "my_own", tmp_path)
    for path in root.rglob("*"):
        assert TOKEN not in path.name
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert TOKEN not in text.lower(), path
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    assert project["entry-points"][kind.group] == {"my_own": f"nexus_{kind}_my_own.plugin"}


@pytest.mark.parametrize("kind", Kind)
def test_generated_code_is_clean(tmp_path, kind):
    """The author starts from code that the project's own linter and formatter accept."""
    root = generate(kind, "twelve_chars", tmp_path)  # as long as the token, or lines break elsewhere
    for command in (["check"], ["format", "--check"]):
        arguments = ["ruff", *command, "--config", ROOT / "pyproject.toml", "--no-cache", root]
        result = subprocess.run([sys.executable, "-m", *arguments], capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("kind", Kind)
def test_nothing_stray_is_copied(tmp_path, kind):
    written = {str(path.relative_to(tmp_path)) for path in generate(kind, "demo", tmp_path).rglob("*")}
    assert not [name for name in written if "__pycache__" in name or "cache" in name]
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "the scratch directory is gone"


@pytest.mark.parametrize(
    "name",
    ["class", "None", "Demo", "my-model", "../x", "a/b", "1st", "_x", "", " ", "x" * 41, "naïve", "a\nb", "a b", TOKEN,
     ".", "..", "/etc", "demo\n", "nul\x00"],
)  # fmt: skip
def test_what_cannot_be_a_name_is_refused(tmp_path, name):
    with pytest.raises(UsageError, match="cannot name a plugin"):
        generate(Kind.TEACHER, name, tmp_path / "deep")
    assert not list(tmp_path.iterdir())


def test_a_long_name_works(tmp_path, path_restored):
    root = generate(Kind.CAPABILITY, "x" * 40, tmp_path)
    assert (root / "src" / f"nexus_capability_{'x' * 40}" / "plugin.py").is_file()


def test_what_exists_is_not_touched(tmp_path):
    root = generate(Kind.TOWER, "demo", tmp_path)
    (root / "README.md").write_text("mine")
    with pytest.raises(NexusError, match="exists already"):
        generate(Kind.TOWER, "demo", tmp_path)
    assert (root / "README.md").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["nexus-tower-demo"]


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    """Out of space half-way: the draft goes, and no half plugin has the final name."""
    real = Path.write_text

    def full(self, *arguments, **options):
        if self.name == "plugin.py":
            raise OSError(28, "No space left on device")
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(NexusError, match=r"cannot write .*No space left"):
        generate(Kind.TOWER, "demo", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_template_itself_is_a_valid_plugin(path_restored):
    """So that it is linted, typed and read as code; `templatename` is its name."""
    for kind in Kind:
        (ref,) = refs_of_project(shared_path("template") / kind.value)
        assert ref.name == TOKEN
        assert [r.detail for r in run_checks(ref) if not r.ok and "metadata" in r.check] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", Kind)
def test_installed_into_an_environment_of_its_own(tmp_path, kind):
    """pip install -e, then `nexus plugins check demo` and the plugin's own pytest, as its author would."""
    root = generate(kind, "demo", tmp_path)
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    site = next((venv / "lib").glob("python*/site-packages"))
    # The packages of this environment, through a .pth: --system-site-packages would be those of the base Python.
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({p!r})\n" for p in _site_packages()))
    python = venv / "bin" / "python"
    _install(python, root)
    nexus = [python, "-c", "from nexus_core.cli.main import main; main()"]
    listed = _run([*nexus, "plugins"], tmp_path)
    assert re.search(rf"{kind}\s+demo\s+0\.1\.0\s+ok", listed)
    checked = _run([*nexus, "plugins", "check", "demo"], tmp_path)
    assert re.search(r"\d+ passed, 0 failed", checked)
    assert " passed" in _run([python, "-m", "pytest", "-q", "-p", "no:cacheprovider", root], tmp_path)


def _site_packages() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


def _install(python: Path, root: Path) -> None:
    for tool in (["uv", "pip", "install", "-q", "-p", python], [python, "-m", "pip", "install", "-q"]):
        try:
            command = [*tool, "--no-deps", "--no-build-isolation", "-e", root]
            subprocess.run(command, check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError):
            continue
        return
    pytest.skip("neither uv nor pip is here")


def _run(command: list[object], cwd: Path) -> str:
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout
