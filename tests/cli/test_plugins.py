"""`nexus plugins new` and `nexus plugins check`, as they are typed."""

from __future__ import annotations

import json
import os

import pytest

KINDS = ["teacher", "capability", "tower"]


@pytest.mark.parametrize("kind", KINDS)
def test_new_says_what_it_wrote_and_what_comes_next(new_site, tmp_path, kind):
    result = new_site().nexus("plugins", "new", kind, "my_model", "--into", str(tmp_path))
    root = tmp_path / f"nexus-{kind}-my-model"
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"wrote {root}",
        f"next:  pip install -e {root} && nexus plugins check my_model",
    ]
    assert (root / "src" / f"nexus_{kind}_my_model" / "plugin.py").is_file()


@pytest.mark.parametrize("name", ["class", "../x", ""])
def test_new_refuses_what_cannot_be_a_name(new_site, tmp_path, name):
    result = new_site().nexus("plugins", "new", "teacher", "--into", str(tmp_path / "deep"), "--", name)
    assert result.returncode == 2
    assert "cannot name a plugin" in result.stderr
    assert "nexus plugins new teacher my_model" in result.stderr
    assert not list(tmp_path.iterdir())


def test_new_refuses_an_unknown_kind(new_site, tmp_path):
    result = new_site().nexus("plugins", "new", "teachr", "demo", "--into", str(tmp_path))
    assert result.returncode == 2
    assert not list(tmp_path.iterdir())


def test_new_overwrites_nothing(new_site, tmp_path):
    site = new_site()
    (tmp_path / "nexus-tower-demo").mkdir()
    result = site.nexus("plugins", "new", "tower", "demo", "--into", str(tmp_path))
    assert result.returncode == 1
    assert "exists already" in result.stderr
    assert not list((tmp_path / "nexus-tower-demo").iterdir())


def test_new_into_a_file_is_refused(new_site, tmp_path):
    (tmp_path / "file").write_text("kept")
    result = new_site().nexus("plugins", "new", "tower", "demo", "--into", str(tmp_path / "file"))
    assert result.returncode == 2
    assert (tmp_path / "file").read_text() == "kept"
    below = new_site().nexus("plugins", "new", "tower", "demo", "--into", str(tmp_path / "file" / "below"))
    assert below.returncode == 1
    assert below.stderr.startswith("error: cannot write ")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_new_into_an_unwritable_directory_is_refused(new_site, tmp_path):
    tmp_path.chmod(0o500)
    result = new_site().nexus("plugins", "new", "tower", "demo", "--into", str(tmp_path))
    tmp_path.chmod(0o700)
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write ")


def test_new_where_nothing_can_be_written_is_refused(new_site):
    """Holds for root too: /proc takes no directories."""
    result = new_site().nexus("plugins", "new", "tower", "demo", "--into", "/proc/nexus")
    assert result.returncode == 1
    assert result.stderr.startswith("error: cannot write ")


def test_check_of_a_new_plugin_from_its_path_passes(new_site, tmp_path):
    site = new_site()
    site.nexus("plugins", "new", "capability", "demo", "--into", str(tmp_path))
    result = site.nexus("plugins", "check", str(tmp_path / "nexus-capability-demo"))
    assert result.returncode == 0, result.stdout
    assert result.stdout.splitlines()[-1].endswith(" passed, 0 failed")


def test_check_of_a_failing_plugin_prints_the_table_and_exits_1(new_site, tmp_path):
    site = new_site()
    site.nexus("plugins", "new", "capability", "demo", "--into", str(tmp_path))
    plugin = tmp_path / "nexus-capability-demo" / "src" / "nexus_capability_demo" / "plugin.py"
    plugin.write_text(plugin.read_text() + "\nimport numpy\n")
    result = site.nexus("plugins", "check", str(tmp_path / "nexus-capability-demo"))
    assert result.returncode == 1
    (failed,) = [line for line in result.stdout.splitlines() if "FAILED" in line]
    assert "lazy import" in failed and "numpy" in failed
    assert result.stdout.splitlines()[-1].endswith(" passed, 1 failed")
    rows = json.loads(site.nexus("plugins", "check", "--json", str(tmp_path / "nexus-capability-demo")).stdout)
    assert [row["ok"] for row in rows].count(False) == 1


def test_check_of_a_quarantined_plugin_fails_and_does_not_stop(new_site):
    site = new_site()
    site.add("capability", "broken", "1 / 0")
    site.add("capability", "empty", "NEXUS_API = 1")
    result = site.nexus("plugins", "check", "broken", "empty")
    assert result.returncode == 1
    assert "ZeroDivisionError" in result.stdout and "implements none of" in result.stdout
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("target", ["nobody", "./absent", "", "\x7f", "a" * 300])
def test_check_of_an_unknown_target_is_a_usage_error(new_site, target):
    result = new_site().nexus("plugins", "check", target)
    assert result.returncode == 2
    assert "is neither an installed plugin nor a directory" in result.stderr


def test_check_of_a_misspelt_plugin_guesses(new_site):
    site = new_site()
    site.add("capability", "probing", "NEXUS_API = 1")
    assert "did you mean 'probing'" in site.nexus("plugins", "check", "probin").stderr


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (None, 2, "holds no pyproject.toml"),
        ("[project\n", 1, "TOMLDecodeError"),
        ("\xff", 1, "pyproject.toml"),
        ("[project]\nname = 'x'\n", 1, "declares no entry point"),
        ("project = 3\n", 1, "pyproject.toml"),
        ("[project]\nname='x'\nentry-points = 'y'\n", 1, "pyproject.toml"),
        ("[project]\nname='x'\n[project.entry-points.'nexus.towers']\nx = 3\n", 1, "pyproject.toml"),
        ("[project]\nname='x'\n[project.entry-points]\n'nexus.towers' = ['x']\n", 1, "pyproject.toml"),
        (
            "[project]\nname=3\ndependencies='x'\n[project.entry-points.'nexus.towers']\nx = 'x.y'\n",
            1,
            "pyproject.toml",
        ),
    ],
)
def test_check_of_a_directory_that_is_no_plugin(new_site, tmp_path, text, status, said):
    if text is not None:
        (tmp_path / "pyproject.toml").write_bytes(text.encode("latin-1"))
    result = new_site().nexus("plugins", "check", str(tmp_path))
    assert result.returncode == status, result.stderr
    assert said in result.stderr
    assert "internal error" not in result.stderr
    assert len(result.stderr.splitlines()) == 2
