"""What a user types first costs no torch: the light commands leave nothing heavy in `sys.modules`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {"torch", "transformers", "diffusers", "sklearn", "bitsandbytes", "numpy", "pyarrow", "scipy", "PIL", "rich"}
PROGRAM = """
import sys
from nexus_core.cli.main import main
try:
    main({arguments!r})
except SystemExit as end:
    assert not end.code, end.code
finally:
    print(*sorted({{name.split('.')[0] for name in sys.modules}}), file=sys.stderr)
"""
LIGHT = [
    ["--help"],
    ["--version"],
    ["plugins"],
    ["plugins", "--json"],
    ["plugins", "--help"],
    ["plugins", "check", "--help"],
    ["registry", "--help"],
    ["registry", "list"],
    ["registry", "check"],
    ["doctor", "--help"],
    ["completion", "bash"],
]


@pytest.mark.parametrize("arguments", LIGHT, ids=" ".join)
def test_nothing_heavy_is_imported(new_site, arguments):
    result = new_site().python(PROGRAM.format(arguments=arguments))
    assert result.returncode == 0, result.stderr
    imported = set(result.stderr.splitlines()[-1].split())
    assert "nexus_core" in imported
    assert not imported & HEAVY


def test_the_probe_sees_a_heavy_import(new_site):
    """The test above can fail: a plugin with numpy at its top is caught."""
    site = new_site()
    site.add("capability", "heavy", "import numpy\nfrom nexus_core.hooks import hookimpl\nNEXUS_API = 1\n")
    assert "numpy" in site.python(PROGRAM.format(arguments=["plugins"])).stderr.splitlines()[-1].split()


def test_help_imports_no_plugin(new_site):
    site = new_site()
    site.add("capability", "probe", "raise SystemExit('imported')")
    result = site.nexus("--help")
    assert result.returncode == 0
    assert "imported" not in result.stdout + result.stderr


def test_every_command_has_light_help_with_an_example(new_site):
    code = """
        import click
        from nexus_core.cli.main import cli
        def walk(command, path):
            ctx = click.Context(command, info_name=path)
            yield path, command.get_help(ctx)
            for name in getattr(command, "list_commands", lambda ctx: [])(ctx):
                yield from walk(command.get_command(ctx, name), f"{path} {name}")
        for path, text in walk(cli, "nexus"):
            print(path, "Example" in text, sep="|")
        import sys
        print(*sorted({name.split(".")[0] for name in sys.modules}))
    """
    *rows, imported = new_site().python(code).stdout.splitlines()
    assert len(rows) > 8
    assert [row for row in rows if not row.endswith("|True")] == []
    assert not set(imported.split()) & HEAVY, "help of some command imports something heavy"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["startup", "hook_call"])
def test_the_benchmarks_run(name):
    script = ROOT / "benchmarks" / f"{name}.py"
    result = subprocess.run([sys.executable, script, "--runs", "1"], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "ratio" in result.stdout or "times" in result.stdout
