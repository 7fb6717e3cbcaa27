"""Run the code blocks of one Markdown page, in order, and stop at the first that does not do what the page says.

    python tests/docs/run_page.py PAGE

Run in an empty directory, by the interpreter that the page's commands shall use (see test_docs_run.py).

* A `python` block is executed. All blocks of a page share one namespace, which is the module `__main__`.
* A `console` block holds commands (`$ ...`) and what each prints. The output is compared; spaces do not count, and
  `...` stands for anything or nothing. No output shown is none compared. A status other than 0 is a failure.
* A `bash` block is a script; it is run, and what it prints is not looked at.
* A comment on the line before a block changes what is done with it:
  `<!-- file: PATH -->` writes it to PATH, `<!-- prints -->` says that the last python block printed it,
  `<!-- not run: REASON -->` leaves it out (test_docs_run.py has the list of those that may be).
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import site
import subprocess
import sys
import sysconfig
import traceback
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(
    r"^(?:<!-- (?P<note>[^\n]*) -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    line: int  # of the first line of code
    language: str
    text: str
    note: str  # the comment before it


class PageError(Exception):
    """A block does not do what the page says."""


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    blocks = [
        Block(text.count("\n", 0, match.start("text")) + 1, match["language"], match["text"], match["note"] or "")
        for match in BLOCK.finditer(text)
    ]
    if 2 * len(blocks) != text.count("```"):  # else a block that is written oddly would be passed over in silence
        raise PageError("a code block is not closed, or is not at the start of a line")
    return blocks


def steps_of(console: str) -> list[tuple[str, str]]:
    """(command, what the page says that it prints) for each `$ ` line; a trailing backslash continues a command."""
    lines = re.sub(r"\\\n\s*(?:> )?", "", console)
    parts = re.split(r"^\$ (.*)$", lines, flags=re.MULTILINE)
    if parts[0].strip():
        raise PageError(f"a console block starts with a command: $ {parts[0].splitlines()[0]}")
    return [(command, output.strip("\n")) for command, output in zip(parts[1::2], parts[2::2], strict=True)]


class PageRun:
    """The state that one block leaves to the next: the namespace, the shell's directory and variables."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.shell = Path(os.environ["HOME"], "shell-state")
        self.shell.write_text(f"cd {Path.cwd()}\n", encoding="utf-8")
        self.printed = ""
        self.main = sys.modules["__main__"] = type(sys)("__main__")

    def run(self, block: Block) -> None:
        if block.note.startswith("not run: "):
            return
        if block.note.startswith("file: "):
            path = Path(block.note.removeprefix("file: "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
        elif block.note == "prints":
            self._compare(self.printed, block.text)
        elif block.note and not block.note.startswith(("generated: ", "end of generated")):
            raise PageError(f"unknown comment before a block: {block.note}")
        elif block.language == "python":
            self._python(block)
        elif block.language == "console":
            for command, expected in steps_of(block.text):
                self._command(command, expected)
        elif block.language == "bash":
            self._command(block.text, "")

    def _python(self, block: Block) -> None:
        site.addsitedir(sysconfig.get_path("purelib"))  # what a command of this page has installed meanwhile
        importlib.invalidate_caches()
        code = compile("\n" * (block.line - 1) + block.text, str(self.page), "exec")
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(code, vars(self.main))
        self.printed = out.getvalue()

    def _command(self, command: str, expected: str) -> None:
        script = f'. {self.shell}\n{command}\nstatus=$?\n{{ export -p; echo cd "$PWD"; }} > {self.shell}\nexit $status'
        result = subprocess.run(
            ["bash", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280
        )
        if result.returncode:
            raise PageError(f"$ {command}\nexits with {result.returncode}:\n{result.stdout}")
        if expected:
            self._compare(result.stdout, expected, f"$ {command}\n")

    def _compare(self, got: str, expected: str, what: str = "") -> None:
        pattern = re.sub(r"(\\ )?\\\.\\\.\\\.(\\ )?", ".*", re.escape(" ".join(expected.split())))
        if not re.fullmatch(pattern, " ".join(got.split()), re.DOTALL):
            raise PageError(f"{what}prints:\n{got}\nthe page says:\n{expected}")


def main(page: Path) -> int:
    run, block = PageRun(page), Block(1, "", "", "")
    try:
        for block in blocks_of(page):
            run.run(block)
    except Exception as error:  # the verdict on a block, whatever it raises  # noqa: BLE001
        if not isinstance(error, PageError):
            traceback.print_exc()
        print(f"{page}:{block.line}: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
