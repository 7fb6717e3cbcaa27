"""A plugin that is not selected runs no code at all, and what a broken one says cannot harm a terminal."""

from __future__ import annotations

import json
import os

import pytest

from nexus_core.plugins import Plugins

HEAD = "from nexus_core.hooks import hookimpl\nNEXUS_API = 1\n"
METRIC = HEAD + "@hookimpl\ndef capability_metric(name): return None\n"


@pytest.fixture
def traced(site, tmp_path):
    """A plugin that leaves a trace when anything of it is imported."""
    trace = tmp_path / "imported"
    code = f"open({str(trace)!r}, 'w').close()\n"
    site.add("capability", "traced", code + METRIC, files={"__init__.py": code, "conformance.py": code})
    return trace


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["plugins", "--help"], ["registry", "list"], ["registry", "check"], ["completion", "bash"],
     ["plugins", "check", "text-nobody"], ["plugins", "new", "tower", "x", "--into", "/proc/nowhere"]],
    ids=" ".join,
)  # fmt: skip
def test_a_command_that_needs_no_plugin_imports_none(site, traced, arguments):
    site.nexus(*arguments)
    assert not traced.exists()


def test_a_plugin_that_is_not_selected_is_not_imported(site, traced):
    assert site.nexus("plugins", NEXUS_PLUGINS="").returncode == 0
    assert site.nexus("plugins", NEXUS_PLUGINS="math").returncode == 0
    assert not traced.exists()
    assert site.nexus("plugins", NEXUS_PLUGINS="traced").returncode == 0
    assert traced.exists(), "the trace works"


def test_what_a_plugin_says_is_one_short_printable_line(site):
    hostile = "raise RuntimeError('\\x1b[2J\\x07clear' + 'x' * 100_000 + '\\r\\nerror: fake line')"
    site.add("capability", "hostile", hostile)
    (status,) = [s for s in Plugins(["hostile"]).status() if s.ref.name == "hostile"]
    assert status.reason.isprintable()
    assert len(status.reason) < 600
    listed = site.nexus("plugins", NEXUS_PLUGINS="hostile").stdout
    assert "\x1b" not in listed and "\x07" not in listed
    assert len(listed.splitlines()) == 2


def test_an_exception_whose_text_cannot_be_made_is_named_all_the_same(site):
    source = "class Odd(Exception):\n    def __str__(self): raise ValueError('no text')\nraise Odd\n"
    site.add("capability", "odd", source)
    (status,) = Plugins(["odd"]).status()
    assert "Odd" in status.reason


def test_names_in_metadata_are_printed_harmlessly(site):
    site.distribution("evil", entry_points="[nexus.capabilities]\n\x1b[31mred = x.y\n")
    result = site.nexus("plugins")
    assert result.returncode == 0
    assert "\x1b" not in result.stdout
    assert [row for row in json.loads(site.nexus("plugins", "--json").stdout) if "red" in row["name"]]


def test_a_plugin_cannot_replace_the_core(site):
    """A module of ours in somebody's site-packages does not win: the core is imported before any plugin."""
    site.add("capability", "shadow", METRIC, package="nexus_core_shadow")
    fake = site.path / "nexus_core"
    fake.mkdir()
    (fake / "__init__.py").write_text("raise SystemExit('replaced')")
    code = "import sys; sys.path.append(sys.path.pop(1)); from nexus_core.cli.main import main; main(['plugins'])"
    assert "shadow" in site.python(code, NEXUS_PLUGINS="shadow").stdout


def test_a_registry_fragment_outside_the_package_is_not_read(site, tmp_path):
    """A symbolic link is followed as pip's own files are; a package name cannot climb out of site-packages."""
    from nexus_core.discovery import package_file

    (tmp_path / "registry.yaml").write_text("version: 1\n")
    for package in ("..", "../", os.fspath(tmp_path), ".", "a/b"):
        assert package_file(package, "registry.yaml") is None
