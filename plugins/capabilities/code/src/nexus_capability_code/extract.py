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
    """Drop prose before the code: begin at the first definition or import, unless the lines before it are statements."""
    lines = text.splitlines()
    is_start = re.compile(r"(def |class |import |from \w+ import |@|async def )").match
    start = next((number for number, line in enumerate(lines) if is_start(line)), 0)
    try:
        before = ast.parse("\n".join(lines[:start])).body
    except SyntaxError:
        before = []
    code = before and not all(isinstance(statement, ast.Expr) for statement in before)  # a lone word parses too
    return text if code else "\n".join(lines[start:])


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
