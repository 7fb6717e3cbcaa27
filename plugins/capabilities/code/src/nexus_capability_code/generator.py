"""Endless small functions: a composition of operations, its description, its code and its hidden tests.

An item is drawn in three steps. A *composition* says which operations are used (family, filters, map, finisher). Its
hash alone decides the split, so a composition of `verify` was never seen in `train`, whatever the wording. Then the
constants, the names and the wording are drawn. Last come the tests: inputs around the constants, and the values that
the reference gives for them. An item whose tests cannot tell anything (all values equal) is drawn again.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from nexus_capability_code.values import encode
from nexus_core.types import Sample, Split

TESTS_PER_ITEM = 8
LETTERS = "abcdefghijklmnoprstuw"
SEPARATORS = ("', '", "'-'", "' '", "'/'", "''", "'+'")
# fmt: off
WORDS = (
    "apple", "Bread", "cloud", "dog", "echo", "Fog", "grape", "house", "ice", "jazz", "kite", "lemon", "Moon",
    "nest", "otter", "Pear", "queen", "river", "stone", "tree", "under", "view", "wolf", "Xenon", "yarn", "zoo",
    "at", "be", "cat", "go", "hat", "in", "banana", "cherry", "elephant", "orange", "tomato", "letter", "summer",
    "noon", "level",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Composition:
    """Which operations make a function; constants, names and wording do not count."""

    family: str
    filters: tuple[str, ...]
    junction: str  # "and" or "or" between two filters, else ""
    maps: tuple[str, ...]
    finisher: str

    @property
    def key(self) -> str:
        return "|".join((self.family, *sorted(self.filters), self.junction, *self.maps, self.finisher))

    @property
    def split(self) -> Split:
        bucket = int(hashlib.sha256(self.key.encode()).hexdigest(), 16) % 10
        return {0: Split.VERIFY, 1: Split.PROFILE}.get(bucket, Split.TRAIN)


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation with its constant filled in: what it says, and its code over the element."""

    say: str
    code: str
    constant: str = ""


@cache
def tables() -> Mapping[str, Any]:
    """The operations file, read once."""
    loaded: Mapping[str, Any] = yaml.safe_load(
        files("nexus_capability_code").joinpath("operations.yaml").read_text("utf-8")
    )
    return loaded


def generate(split: Split, seed: int) -> Iterator[Sample]:
    """Samples of one split, endlessly; the order depends on the seed alone."""
    rng = random.Random(f"{split.value}:{seed}")
    seen: set[str] = set()
    while True:
        composition = draw_composition(rng)
        if composition.split is not split:
            continue
        sample = _Item(composition, rng).sample(f"{split.value}-{seed}-{len(seen)}")
        if sample is not None and sample.digest not in seen:
            seen.add(sample.digest)
            yield sample


def draw_composition(rng: random.Random) -> Composition:
    """One composition; families are equally likely, simple shapes likelier than complex ones."""
    name = rng.choice([*tables()["families"], "conditional"])
    if name == "conditional":
        family = tables()["families"]["numbers"]
        filters = rng.sample(list(family["filters"]), rng.choices((1, 2), (7, 3))[0])
        maps = rng.sample(list(family["maps"]), 2)
        return Composition(name, tuple(filters), _junction(filters, rng), tuple(maps), "")
    family = tables()["families"][name]
    filters = rng.sample(list(family["filters"]), rng.choices((0, 1, 2), (2, 5, 3))[0])
    maps = rng.sample(list(family["maps"]), rng.choices((0, 1), (3, 7))[0])
    if not filters and not maps:
        filters = rng.sample(list(family["filters"]), 1)
    kind = family["maps"][maps[0]].get("to", family["type"]) if maps else family["type"]
    fits = [
        finisher
        for finisher, entry in family["finishers"].items()
        if entry["from"] in ("any", kind) and not (entry.get("plain") and maps)
    ]
    return Composition(name, tuple(filters), _junction(filters, rng), tuple(maps), rng.choice(fits))


def _junction(filters: list[str], rng: random.Random) -> str:
    return rng.choices(("and", "or"), (7, 3))[0] if len(filters) > 1 else ""


class _Item:
    """One composition being given constants, names, wording and tests."""

    def __init__(self, composition: Composition, rng: random.Random) -> None:
        self.composition, self.rng = composition, rng
        conditional = composition.family == "conditional"
        self.family = tables()["families"]["numbers" if conditional else composition.family]
        self.words = tables()["conditional"] if conditional else {**self.family, "sentences": tables()["sentences"]}
        self.argument = rng.choice(self.words["arguments"])
        self.name = f"{rng.choice(tables()['verbs'])}_{rng.choice(tables()['nouns'])}"
        self.element = self.argument if conditional else self.family["element"]
        self.parameter: tuple[str, str] | None = None  # name and kind of a second argument, which stands for a constant
        self.constants: list[Any] = []

    def sample(self, identity: str) -> Sample | None:
        if self.composition.family == "conditional":
            description, body = self._conditional()
        else:
            description, body = self._pipeline()
        arguments = self.argument + (f", {self.parameter[0]}" if self.parameter else "")
        code = f"def {self.name}({arguments}):\n{body}"
        tests = self._tests(code)
        if tests is None:
            return None
        meta = {"entry": self.name, "tests": tests, "composition": self.composition.key}
        prompt = description.replace("<args>", arguments)
        return Sample(identity, prompt, code, stratum=self.composition.family, meta=meta)

    def _pipeline(self) -> tuple[str, str]:
        junction = f" {self.composition.junction} "
        filters = [self._operation(self.family["filters"][name]) for name in self.composition.filters]
        maps = [self._operation(self.family["maps"][name]) for name in self.composition.maps]
        entry = self.family["finishers"][self.composition.finisher]
        finisher = self._operation(entry)
        head = maps[0].code if maps else self.element
        loop = self.family["loop"].format(a=self.argument)
        if filters:
            loop += " if " + junction.join(f.code for f in filters)
        code = entry["code"].format(C=f"{head} for {loop}", L=loop, M=head, k=finisher.constant)
        steps = [self.rng.choice(tables()["keep"]).format(p=junction.join(f.say for f in filters))] if filters else []
        steps += [m.say for m in maps]
        told = self.rng.choice(tables()["joins"]).join([*steps, finisher.say])
        sentence = self.rng.choice(self.words["sentences"])
        of = self.rng.choice(self.family["of"])
        return sentence.format(f=self.name, args="<args>", a=self.argument, of=of, steps=told), f"    return {code}"

    def _conditional(self) -> tuple[str, str]:
        junction = f" {self.composition.junction} "
        filters = [self._operation(self.family["filters"][name]) for name in self.composition.filters]
        yes, no = (self._operation(self.family["maps"][name]) for name in self.composition.maps)
        singular = self.words["singular"]
        said = []
        for operation in filters:
            verb, rest = operation.say.split(" ", 1)
            said.append(f"{singular[verb]} {rest}")
        sentence = self.rng.choice(self.words["sentences"]).format(
            f=self.name, args="<args>", a=self.argument, p=junction.join(said),
            yes=yes.say.replace("each", "it"), no=no.say.replace("each", "it"),
        )  # fmt: skip
        test = junction.join(f.code for f in filters)
        return sentence, f"    if {test}:\n        return {yes.code}\n    return {no.code}"

    def _operation(self, entry: Mapping[str, Any]) -> Operation:
        """Fill in the constant: a literal, or now and then the function's second argument."""
        constant = ""
        if kind := entry.get("needs"):
            if self.parameter is None and self.rng.random() < 0.25:
                self.parameter = (self.rng.choice(tables()["parameters"][kind]), kind)
                constant = self.parameter[0]
            else:
                constant = draw_constant(kind, self.rng)
                self.constants.append(constant)
        say = self.rng.choice(entry["say"]).replace("{k}", constant)
        code = entry["code"] if "C}" in entry["code"] or "L}" in entry["code"] else entry["code"].format(
            e=self.element, k=constant
        )  # fmt: skip
        return Operation(say, code, constant)

    def _tests(self, code: str) -> list[dict[str, Any]] | None:
        """Hidden tests: argument lists and the values that the reference gives; None when they tell nothing."""
        namespace: dict[str, Any] = {}
        exec(code, namespace)  # noqa: S102 - our own composition, never a model's output
        reference: Callable[..., Any] = namespace[self.name]
        tests, results = [], []
        for _ in range(TESTS_PER_ITEM):
            arguments = self._arguments()
            value = reference(*arguments)
            results.append(encode(value))
            tests.append({"args": arguments, "expect": value})
        return tests if len({str(result) for result in results}) > 2 else None

    def _arguments(self) -> list[Any]:
        near = [int(c) for c in self.constants if c.isdigit()]
        extra: list[Any] = []
        if self.parameter:
            literal = draw_constant(self.parameter[1], self.rng)
            extra = [int(literal) if literal.isdigit() else literal[1:-1]]
            near += [value for value in extra if isinstance(value, int)]
        marks = [c[1:-1] for c in (*self.constants, *(repr(e) for e in extra)) if c.startswith("'") and len(c) == 3]
        return [_INPUTS[self.composition.family](self.rng, near or [10], marks or ["e"]), *extra]


def draw_constant(kind: str, rng: random.Random) -> str:
    """A constant of one kind, as the source text that stands for it."""
    if kind == "letter":
        return repr(rng.choice(LETTERS))
    if kind == "separator":
        return rng.choice(SEPARATORS)
    low, high = {"number": (2, 60), "divisor": (2, 9), "small": (1, 4), "length": (2, 6)}[kind]
    return str(rng.randint(low, high))


def _number(rng: random.Random, near: list[int]) -> int:
    if rng.random() < 0.5:
        return rng.choice(near) * rng.choice((1, 1, 1, -1, 2, 3)) + rng.randint(-1, 1)
    return rng.randint(-30, 70)


def _numbers(rng: random.Random, near: list[int], marks: list[str]) -> list[int]:
    return [_number(rng, near) for _ in range(rng.randint(6, 12))]


def _word(rng: random.Random, marks: list[str]) -> str:
    word = rng.choice(WORDS)[: rng.randint(1, 9)]
    word = rng.choice((word, word, word.upper(), word.capitalize()))
    return rng.choice((word, word + rng.choice(marks), rng.choice(marks) + word, word))


def _words(rng: random.Random, near: list[int], marks: list[str]) -> list[str]:
    return [_word(rng, marks) for _ in range(rng.randint(6, 12))]


def _text(rng: random.Random, near: list[int], marks: list[str]) -> str:
    return " ".join(_word(rng, marks) + rng.choice(("", "", str(rng.randint(0, 99)))) for _ in range(rng.randint(2, 4)))


def _dictionary(rng: random.Random, near: list[int], marks: list[str]) -> dict[str, int]:
    return {word: _number(rng, near) for word in rng.sample(WORDS, rng.randint(6, 10))}


def _scalar(rng: random.Random, near: list[int], marks: list[str]) -> int:
    return _number(rng, near)


_INPUTS: Mapping[str, Callable[[random.Random, list[int], list[str]], Any]] = {
    "numbers": _numbers,
    "words": _words,
    "characters": _text,
    "values": _dictionary,
    "conditional": _scalar,
}
