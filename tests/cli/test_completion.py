"""Completion: a script for each shell, and the answers it asks for."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from nexus_core.cli.main import COMMANDS


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_asks_nexus(new_site, shell):
    result = new_site().nexus("completion", shell)
    assert (result.returncode, result.stderr) == (0, "")
    assert f"_NEXUS_COMPLETE={shell}_complete" in result.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_valid_in_its_shell(new_site, tmp_path, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed here")
    script = tmp_path / "script"
    script.write_text(new_site().nexus("completion", shell).stdout)
    subprocess.run([shell, "-n", script], check=True)


def test_an_unknown_shell_is_a_usage_error(new_site):
    assert new_site().nexus("completion", "tcsh").returncode == 2


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("nexus ", set(COMMANDS)),
        ("nexus plu", {"plugins"}),
        ("nexus plugins ", {"new", "check"}),
        ("nexus plugins new t", {"teacher", "tower"}),
        ("nexus completion z", {"zsh"}),
        ("nexus --de", {"--debug"}),
    ],
)
def test_what_may_follow(new_site, typed, expected):
    words = typed.split(" ")
    result = new_site().nexus(_NEXUS_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    offered = {line.split(",")[1] for line in result.stdout.splitlines()}
    assert offered == expected, result.stderr


def test_the_names_of_plugins_complete(new_site):
    site = new_site()
    site.add("capability", "probing", "raise SystemExit('completion must not import plugins')")
    typed = "nexus plugins check prob"
    result = site.nexus(_NEXUS_COMPLETE="bash_complete", COMP_WORDS=typed, COMP_CWORD="3")
    assert result.stdout.split() == ["plain,probing"]
