"""The program inside an answer. Standard library only; runs in the sandbox, because even parsing may be attacked."""

from __future__ import annotations

import ast
import re

_FENCE = re.compile(r"```[a-zA-Z0-9_+-]*[ \t]*\n(.*?)(?:```|\Z)", re.DOTALL)


def program_from(text: str, prompt: str, entry: str) -> str:
    """Source to run: the fenced block that defines `entry`, else the longest beginning of `text` that is Python.

    `prompt` is code that comes before the answer (HumanEval). An answer that defines `entry` itself follows the
    prompt's imports and helpers; any other answer is taken as the continuation of the prompt.
    """
    blocks = _FENCE.findall(text)
    chosen = next((block for block in blocks if f"def {entry}" in block), blocks[0] if blocks else text)
    if f"def {entry}" not in chosen:
        return _longest_valid(prompt + chosen, prompt.count("\n") + 1)
    before = prompt.split(f"def {entry}")[0]
    if not blocks:
        chosen = _from_first_definition(chosen)
    return _longest_valid(before + chosen, before.count("\n") + 1)


def _from_first_definition(text: str) -> str:
    """Drop prose before the code: start at the first line that begins an import, a decorator, a class or a function."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if re.match(r"(def |class |import |from \w+ import |@|async def )", line):
            return "\n".join(lines[number:])
    return text


def _longest_valid(source: str, least: int) -> str:
    """The longest run of leading lines that parses; the whole text, with its error, when none does."""
    lines = source.splitlines()
    for end in range(len(lines), least - 1, -1):
        candidate = "\n".join(lines[:end]) + "\n"
        try:
            ast.parse(candidate)
        except SyntaxError:
            continue
        return candidate
    return source
