"""Finding the program in an answer."""

from __future__ import annotations

import pytest
from nexus_capability_code.extract import program_from

BODY = "def f(x):\n    return x + 1\n"
PROMPT = 'import math\n\n\ndef f(x):\n    """Add one."""\n'


@pytest.mark.parametrize(
    "text",
    [
        BODY,
        f"```python\n{BODY}```",
        f"Here:\n```\n{BODY}```\nand more words (",
        f"{BODY}\nThis adds one: to x",
        f"Of course.\n{BODY}",
        f"Sure\n\n{BODY}",
        f"one = 1\n{BODY.replace('1', 'one')}",
        f"```py\nprint(1)\n```\nor rather\n```py\n{BODY}```",
        f"```python\n{BODY}",
    ],
)
def test_whole_function(text: str) -> None:
    namespace: dict[str, object] = {}
    exec(program_from(text, "", "f"), namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]


@pytest.mark.parametrize(
    "text", ["    return x + math.floor(1.5)\n", "    return x + 1\n\nprint(f(", f"```python\n{BODY}```"]
)
def test_continuation_of_a_prompt(text: str) -> None:
    namespace: dict[str, object] = {}
    exec(program_from(text, PROMPT, "f"), namespace)
    assert namespace["f"](1) == 2  # type: ignore[operator]


def test_nothing_that_parses_is_left_with_its_error() -> None:
    with pytest.raises(SyntaxError):
        compile(program_from("def f(x:\n    return", "", "f"), "p", "exec")
