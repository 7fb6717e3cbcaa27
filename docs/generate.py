"""Write what in the documentation is a copy of something else: the command line's help, fields, checks, scores.

    python docs/generate.py            write
    python docs/generate.py --check    write nothing; exit with 1 and name the pages that are out of date

A page holds `<!-- generated: KIND ARGUMENT -->` and `<!-- end of generated -->`; what stands between them is replaced.
docs/reference/cli.md is generated as a whole.
"""

from __future__ import annotations

import configparser
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

ROOT = Path(__file__).resolve().parents[1]
CLI_PAGE = ROOT / "docs" / "reference" / "cli.md"
CARDS = ROOT / "plugins" / "teachers" / "zoo" / "src" / "nexus_teacher_zoo" / "weights"
CORE = ROOT / "nexus_core"
WIDTH = 100
MARKED = re.compile(
    r"(<!-- generated: (?P<kind>\w+) ?(?P<argument>\w*) -->\n).*?(<!-- end of generated -->)", re.DOTALL
)

ZOO_HEAD = (
    "teacher",
    "parameters",
    "measured on held-out samples",
    "score (95 % interval)",
    "n",
    "without a model",
    "by memory",
    "made by",
)

CLI_HEAD = """# Command line

Written by `python docs/generate.py` from the commands themselves; a test compares.
"""


def cli_page() -> str:
    """The help text of every command, depth first."""
    from nexus_core.cli.main import cli

    parts = [CLI_HEAD]
    for path, text in helps(cli, "nexus", None):
        parts.append(f"\n{'#' * (path.count(' ') + 2)} `{path}`\n\n```text\n{text}\n```\n")
    return "".join(parts)


def helps(command: click.Command, name: str, parent: click.Context | None) -> Iterator[tuple[str, str]]:
    """(full name, help) of a command and of all below it."""
    context = click.Context(
        command,
        info_name=name,
        parent=parent,
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        **command.context_settings,
    )
    lines = command.get_help(context).splitlines()
    yield context.command_path, "\n".join(line.rstrip() for line in lines).rstrip()
    if isinstance(command, click.Group):
        for below in command.list_commands(context):
            child = command.get_command(context, below)
            assert child is not None  # it was listed a line above
            yield from helps(child, below, context)


def fields(name: str) -> str:
    """The fields of one of the frozen types that cross the seam."""
    from nexus_core import types

    cls = getattr(types, name)
    rows = []
    for field in dataclasses.fields(cls):
        kind = str(field.type).replace("|", "\\|")
        rows.append(f"| `{field.name}` | `{kind}` | {_default(field)} |")
    return "\n".join([f"`{name}`: {inspect.getdoc(cls)}", "", "| field | type | default |", "|---|---|---|", *rows])


def _default(field: dataclasses.Field[object]) -> str:
    if field.default is not dataclasses.MISSING:
        return f"`{field.default!r}`"
    return "empty" if field.default_factory is not dataclasses.MISSING else "required"


def checks(name: str) -> str:
    """What one conformance class checks, in the words that the table of `nexus plugins check` prints."""
    from nexus_core import testing

    cls = getattr(testing, name)
    above = {check for base in cls.__mro__[1:] for check in vars(base)} if name != "Conformance" else set()
    titles = [(inspect.getdoc(value) or key).splitlines()[0] for key, value in vars(cls).items() if key[:5] == "test_"]
    assert titles or above, f"{name} has no checks"
    return "\n".join(f"* {title}" for title in titles)


def zoo(_: str) -> str:
    """The scores of the zoo teachers, from their cards."""
    cards = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in sorted(CARDS.glob("*/card.yaml"))]
    if not cards:
        return "No zoo teacher has been trained and measured in this checkout yet."
    rows = [ZOO_HEAD, ("---",) * len(ZOO_HEAD), *(_card_row(card) for card in cards)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _card_row(card: dict[str, Any]) -> tuple[str, ...]:
    held = card["held_out"]
    name, size, command = card["id"], f"{card['parameters']:,}", f"`{card['made_by']['command']}`"
    if "capability" not in held:  # a backbone knows no capability; its card gives the loss on its corpus
        said = f"{held['nats_per_byte']} nats per byte"
        return name, size, f"{held['metric']}, lower is better", said, str(held["n"]), "", "", command
    low, high = held["ci95"]
    guesses = ", ".join(f"{key} {guess['value']:.3f}" for key, guess in held["baselines"].items())
    what = f"{held['capability']}: {held['metric']}, {held['direction']} is better"
    memory = f"{held['memorisation_control']['value']:.3f}"
    return name, size, what, f"{held['value']:.3f} ({low:.3f} to {high:.3f})", str(held["n"]), guesses, memory, command


def layers(_: str) -> str:
    """The layers of the core, from the import law; those in brackets there may be absent, and are left out then."""
    law = configparser.ConfigParser()
    law.read_string((ROOT / ".importlinter").read_text(encoding="utf-8"))
    rows = []
    for line in law["importlinter:contract:layers"]["layers"].strip().split("\n"):
        names = [name.strip(" ()").removeprefix("nexus_core.") for name in line.split("|")]
        here = [name for name in names if (CORE / name).is_dir() or (CORE / f"{name}.py").is_file()]
        rows += ["   ".join(here)] if here else []
    return "\n".join(["```text", *rows, "```"])


KINDS = {"fields": fields, "checks": checks, "zoo": zoo, "layers": layers}


def filled(text: str) -> str:
    """A page with its generated parts renewed."""
    return MARKED.sub(lambda m: f"{m[1]}\n{KINDS[m['kind']](m['argument'])}\n\n{m[4]}", text)


def wanted() -> dict[Path, str]:
    """Every page that is generated, wholly or in part, with the text that it should have."""
    pages = {CLI_PAGE: cli_page()}
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        if path != CLI_PAGE and MARKED.search(text := path.read_text(encoding="utf-8")):
            pages[path] = filled(text)
    return pages


def main(arguments: list[str]) -> int:
    stale = [path for path, text in wanted().items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in arguments:
        for path in stale:
            print(f"{path.relative_to(ROOT)} is out of date; run: python docs/generate.py")
        return 1 if stale else 0
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted()[path], encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
