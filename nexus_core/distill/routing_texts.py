"""Text that is for no adapter: what the router learns to leave alone, and, of other kinds, what it is tested on.

All of it comes from Python itself or from a seed, so that a router can be trained anywhere. The two share no kind: that
a router refuses what it was shown says little.
"""

from __future__ import annotations

import builtins
import inspect
import json
import math
import random
import string
import sysconfig
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

SHORTEST, LONGEST = 16, 4000  # characters of a piece; lengths are even on a logarithmic scale, as prompts are
ASKS = (
    "What is {}?",
    "How do I {}?",
    "Explain {} to me.",
    "Why is {} so {}?",
    "Write a text about {}.",
    "Who invented {}?",
    "Please help me with {}, {} and {}.",
    "Can you tell me whether {} is {}?",
    "Translate: {} {}",
    "{}",
)
SCRIPTS = {"Greek": (0x3B1, 0x3C9), "Cyrillic": (0x430, 0x44F), "Hebrew": (0x5D0, 0x5EA), "Han": (0x4E00, 0x9FA5)}


def general_text() -> list[str]:
    """Documents about Python, in order of name: its help topics and the docstrings of its built-in names."""
    from pydoc_data.topics import topics

    named = [value for _, value in sorted(vars(builtins).items())]
    methods = [m for value in named if isinstance(value, type) for _, m in sorted(vars(value).items())]
    docs = [doc for value in (*named, *methods) if callable(value) and (doc := inspect.getdoc(value))]
    return list(dict.fromkeys([text for _, text in sorted(topics.items())] + docs))


def negatives(n: int, seed: int) -> list[str]:
    """`n` texts: pieces of general text as they are, with their words in any order, and short requests about its words."""
    rng, documents = random.Random(f"negatives {seed}"), general_text()
    words = sorted({word for text in documents for word in text.split() if word.isalpha()})
    makers: tuple[Callable[[], str], ...] = (
        lambda: _piece(rng, documents),
        lambda: " ".join(_shuffled(rng, _piece(rng, documents).split())),
        lambda: _request(rng, words),
    )
    return [makers[i % len(makers)]() for i in range(n)]


def foreign_texts(n: int, seed: int) -> dict[str, list[str]]:
    """`n` texts of each of several kinds that `negatives` has none of."""
    rng = random.Random(f"foreign {seed}")
    library = Path(sysconfig.get_path("stdlib"))
    sources = [(library / f"{name}.py").read_text("utf-8") for name in ("argparse", "ast", "heapq", "logging/__init__")]
    makers: Mapping[str, Callable[[], str]] = {
        "python sources": lambda: _piece(rng, sources),
        "other scripts": lambda: _script(rng),
        "json": lambda: json.dumps(_value(rng, 3), indent=rng.choice((None, 2))),
        "random bytes": lambda: rng.randbytes(_length(rng)).decode("latin-1"),
        "random letters": lambda: "".join(rng.choices(string.ascii_letters + " ", k=_length(rng))),
        "nothing": lambda: rng.choice(("", " ", "\n", "\t\n ", "?", "...")),
    }
    return {kind: [make() for _ in range(n)] for kind, make in makers.items()}


def _length(rng: random.Random) -> int:
    return round(math.exp(rng.uniform(math.log(SHORTEST), math.log(LONGEST))))


def _piece(rng: random.Random, documents: Sequence[str]) -> str:
    """A piece of a document that begins at a word."""
    text = rng.choice(documents)
    start = rng.randrange(max(1, len(text) - SHORTEST))
    start = text.rfind(" ", 0, start) + 1
    return text[start : start + _length(rng)]


def _shuffled(rng: random.Random, words: list[str]) -> list[str]:
    rng.shuffle(words)
    return words


def _request(rng: random.Random, words: Sequence[str]) -> str:
    pattern = rng.choice(ASKS)
    phrases = [" ".join(rng.choices(words, k=rng.randint(1, 4))) for _ in range(pattern.count("{}"))]
    return pattern.format(*phrases)


def _script(rng: random.Random) -> str:
    """Words of letters beyond ASCII, in one script."""
    first, last = SCRIPTS[rng.choice(list(SCRIPTS))]
    lengths = [rng.randint(2, 9) for _ in range(max(2, _length(rng) // 6))]
    return " ".join("".join(chr(rng.randint(first, last)) for _ in range(length)) for length in lengths)


def _value(rng: random.Random, depth: int) -> object:
    """A JSON value with made-up keys."""
    name = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 9)))
    if depth == 0:
        return rng.choice((rng.randint(0, 9999), rng.random(), name, True, None))
    if rng.random() < 0.5:
        return [_value(rng, depth - 1) for _ in range(rng.randint(2, 4))]
    return {f"{name}{i}": _value(rng, depth - 1) for i in range(rng.randint(2, 4))}
