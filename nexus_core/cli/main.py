"""The `nexus` command: the lazy table of commands, and the one place where an error becomes an exit status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click

from nexus_core import __version__
from nexus_core.cli.lazy import LazyGroup
from nexus_core.errors import NexusError
from nexus_core.printable import one_line

COMMANDS = {
    "architect": ("nexus_core.cli.architect:command", "Decide the student's shape from the profiles of a run."),
    "bundle": ("nexus_core.cli.bundle:command", "Make, look at, check and compare bundles."),
    "capability": (
        "nexus_core.cli.capability:command",
        "Teach one capability anew, and replace its one file in a bundle.",
    ),
    "distill": ("nexus_core.cli.distill:command", "Teach the planned student from the cached signals."),
    "doctor": ("nexus_core.cli.doctor:command", "Say what this machine is and what is missing or quarantined."),
    "eval": ("nexus_core.cli.eval:command", "Score a teacher on a capability, with n and an interval."),
    "infer": ("nexus_core.cli.infer:command", "Ask a bundle a prompt and print the answer."),
    "pause": ("nexus_core.cli.pause:pause", "Hold a run that is at work, until nexus resume."),
    "plugins": ("nexus_core.cli.plugins:command", "List, create and check plugins."),
    "profile": ("nexus_core.cli.profile:command", "Find, prove and store what carries a capability in a teacher."),
    "registry": ("nexus_core.cli.registry:command", "List, check and extend the registry of teachers and contracts."),
    "report": (
        "nexus_core.cli.report:command",
        "Write a run as one page: verdict, retention, curves, reasons, answers.",
    ),
    "resume": ("nexus_core.cli.pause:resume", "Let a run go on that nexus pause holds."),
    "run": ("nexus_core.cli.run:command", "Everything, from the teachers that are here to a verified bundle."),
    "study": ("nexus_core.cli.study:command", "Teach the student in several ways at one budget, and compare."),
    "teacher": ("nexus_core.cli.teacher:command", "Add teachers to the registry, drop or merge them with a reason."),
    "verify": ("nexus_core.cli.verify:command", "Hold the student to its contracts, with its teachers out of reach."),
    "completion": ("nexus_core.cli.completion:command", "Print the completion script of your shell."),
}

EXAMPLES = """
\b
Examples:
  nexus doctor                          what is here, what is missing
  nexus plugins                         what is installed, what is quarantined and why
  nexus plugins new teacher mymodel     a plugin that installs, lists and passes
  nexus registry list                   teachers and contracts
  nexus eval zoo-reasoning --capability reasoning

\b
Exit status: 0 done, 1 error, 2 wrong usage, 3 a retention contract failed, 130 or 143 interrupted.
"""


class ReaderGone(Exception):
    """`nexus plugins | head`: a broken pipe under a name that click does not answer itself, with status 1."""


class Root(LazyGroup):
    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _reader():
            return super().make_context(*args, **kwargs)  # prints --help

    def invoke(self, ctx: click.Context) -> Any:
        with _reader():
            return super().invoke(ctx)


@contextmanager
def _reader() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError as error:
        raise ReaderGone from error


@click.group(cls=Root, lazy=COMMANDS, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nexus")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Distil several large frozen teachers into one compact student that needs none of them."""


def main(arguments: Sequence[str] | None = None) -> None:
    """The funnel: whatever happens below becomes two lines on stderr and an exit status."""
    args = list(sys.argv[1:] if arguments is None else arguments)
    ours = (
        args[: args.index("--")] if "--" in args else args
    )  # what follows two dashes is an argument, whatever it says
    debug = "--debug" in ours
    args = [a for a in ours if a != "--debug"] + args[len(ours) :]
    try:
        status = cli.main(args=args, prog_name="nexus", standalone_mode=False)
        sys.stdout.flush()
    except NexusError as error:
        _say(error.message, error.hint, getattr(error, "__notes__", []))
        _traceback(debug)
        sys.exit(error.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:  # click's own has ours as its cause
        print("interrupted", file=sys.stderr)
        sys.exit(128 + getattr(error.__cause__ or error, "signum", signal.SIGINT))
    except (ReaderGone, BrokenPipeError):  # what a program that SIGPIPE killed ends with; nothing is written at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except Exception as error:  # the funnel
        _say(f"internal error: {type(error).__name__}: {error}", "run again with --debug and report the traceback")
        _traceback(debug)
        sys.exit(1)
    sys.exit(status if isinstance(status, int) else 0)


def _say(message: str, hint: str, notes: Sequence[str] = ()) -> None:
    print("error: " + one_line(" ".join([message, *(f"({note})" for note in notes)])), file=sys.stderr)
    if hint:
        print(f"hint:  {one_line(hint)}", file=sys.stderr)


def _traceback(debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
