"""The funnel: whatever goes wrong becomes two lines on stderr and the exit status of the specification."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest

from nexus_core.cli.main import COMMANDS

PIPES = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
PROGRAM = """
import click
from nexus_core.cli import main
from nexus_core.errors import *
def body():
    {body}
main.cli.add_command(click.Command("use", callback=body))
main.main({arguments!r})
"""


@pytest.fixture
def use(new_site):
    """Run a command whose body is given, through the real entry point, in a process of its own."""

    def run(body: str, *arguments: str):
        return new_site().python(PROGRAM.format(body=body, arguments=[*arguments, "use"]))

    return run


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ("pass", 0),
        ("raise NexusError('what', 'do this')", 1),
        ("raise PluginError('what', 'do this')", 1),
        ("raise UsageError('what', 'do this')", 2),
        ("raise ContractFailed('what', 'do this')", 3),
        ("1 / 0", 1),
        ("raise KeyboardInterrupt", 130),
        ("raise click.Abort", 130),
        ("raise SystemExit(7)", 7),
        ("raise click.exceptions.Exit(5)", 5),
        ("raise click.UsageError('what')", 2),
    ],
)
def test_exit_status(use, body, status):
    result = use(body)
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_an_error_is_two_lines(use):
    result = use("raise NexusError('what and where', 'what to do')")
    assert result.stderr == "error: what and where\nhint:  what to do\n"
    assert use("raise NexusError('only what')").stderr == "error: only what\n"


def test_a_note_says_who_spoke(use):
    body = "e = NexusError('what', 'do'); e.add_note('plugin x, hook y'); raise e"
    assert use(body).stderr.splitlines()[0] == "error: what (plugin x, hook y)"


def test_an_error_of_many_lines_is_still_one_line(use):
    result = use("raise NexusError('first\\nsecond', 'third\\n\\nfourth')")
    assert result.stderr == "error: first second\nhint:  third fourth\n"


def test_an_internal_error_asks_for_debug(use):
    first, second = use("{}['gone']").stderr.splitlines()
    assert first == "error: internal error: KeyError: 'gone'"
    assert "--debug" in second


@pytest.mark.parametrize("body", ["raise NexusError('what', 'do')", "1 / 0"])
def test_a_traceback_only_with_debug(use, body):
    assert "Traceback" not in use(body).stderr
    result = use(body, "--debug")
    assert "Traceback" in result.stderr and "in body" in result.stderr
    assert result.returncode == 1


def test_debug_is_understood_anywhere_before_two_dashes(new_site):
    site = new_site()
    for arguments in (["--debug", "plugnis"], ["plugnis", "--debug"]):
        assert "Traceback" in site.nexus(*arguments).stderr
    after = site.nexus("plugins", "check", "--", "--debug")
    assert "'--debug' is neither an installed plugin nor a directory" in after.stderr
    assert "Traceback" not in after.stderr


def test_a_misspelt_command(new_site):
    result = new_site().nexus("plugnis")
    assert result.returncode == 2
    first, second = result.stderr.splitlines()
    assert first == "error: there is no command 'plugnis'"
    assert second == "hint:  did you mean 'plugins'? see: nexus --help"


def test_a_misspelt_sub_command(new_site):
    result = new_site().nexus("plugins", "chekc")
    assert result.returncode == 2
    assert "chekc" in result.stderr and "did you mean" in result.stderr.lower()


@pytest.mark.parametrize("arguments", [["--nope"], ["plugins", "--nope"], ["plugins", "new", "teacher"]])
def test_wrong_options_are_usage_errors(new_site, arguments):
    result = new_site().nexus(*arguments)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def test_help_and_version_exit_0(new_site):
    site = new_site()
    for arguments in (["--help"], ["-h"], ["--version"]):
        result = site.nexus(*arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout
    assert all(name in site.nexus("--help").stdout for name in COMMANDS)


@pytest.mark.parametrize("arguments", [["use"], ["--help"], ["print"]])
def test_a_reader_that_leaves_early_ends_it_with_141(arguments):
    """`nexus plugins | head -0`: whether click writes or Python, while it runs or when it ends."""
    code = "import click, sys\nfrom nexus_core.cli import main\nsys.stdin.read()\n"
    code += "def body():\n    for _ in range(20000): click.echo('a line of output')\n"
    code += "main.cli.add_command(click.Command('use', callback=body))\n"
    code += "main.cli.add_command(click.Command('print', callback=lambda: print('short')))\n"
    code += f"main.main({arguments!r})"
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, **PIPES)
    process.stdout.close()
    process.stdin.close()  # it starts to write when nobody reads any more
    errors = process.stderr.read().decode()
    process.stderr.close()
    assert process.wait(60) == 141
    assert errors == ""


def test_ctrl_c_ends_it_with_130():
    code = "import click, time\nfrom nexus_core.cli import main\n"
    code += "def body():\n    print('ready', flush=True); time.sleep(60)\n"
    code += "main.cli.add_command(click.Command('use', callback=body)); main.main(['use'])"
    process = subprocess.Popen([sys.executable, "-c", code], text=True, **PIPES)
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors.strip()) == (130, "interrupted")


def test_every_command_in_the_table_can_be_imported(new_site):
    code = "from nexus_core.cli.main import *\nimport click\nctx = click.Context(cli)\n"
    code += "print(*[type(cli.get_command(ctx, name)).__mro__[-2].__name__ for name in COMMANDS])"
    result = new_site().python(code)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.split()) == len(COMMANDS)


@pytest.mark.parametrize(
    "arguments",
    [
        ["plugins", "--json"],
        ["registry", "list", "--json"],
        pytest.param(["doctor", "--json"], marks=pytest.mark.slow),  # imports torch to name the device
    ],
)
def test_json_output_is_one_document(new_site, arguments):
    result = new_site().nexus(*arguments)
    assert json.loads(result.stdout)
