"""Long inputs in plain sentences: facts to be asked for, facts that compete with them, and everyday distraction.

Every fact belongs to a subject with a coined name, and every name to exactly one split by its hash. Codes are drawn
anew for each input, so an answer can only be found by reading.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from nexus_core.types import Sample, SampleRequest, Split

POOL = 2000  # samples of a held-out split when the request does not say how many
FACTS = {128: 4, 256: 7, 512: 12, 1024: 20}  # length in tokens -> facts that compete
DOCUMENTS = "documents"  # stratum: the same fact in each of several documents, and the question names one of them
DRILL = "drill"  # `data="drill"`: texts with several questions each, to train with
STRATA = (*map(str, FACTS), DOCUMENTS)


@dataclass(frozen=True, slots=True)
class Fact:
    """One thing that can be asked: the `attribute` of `subject` is `value`."""

    attribute: str
    subject: str
    value: str

    @property
    def answer(self) -> str:
        """The sentence that states it, which is also the reference answer."""
        return f"The {self.attribute} of {self.subject} is {self.value}."


@cache
def words(name: str) -> tuple[str, ...]:
    """One word list of the pack's data file."""
    text = files("nexus_capability_long_context").joinpath("data", "words.json").read_text(encoding="utf-8")
    return tuple(json.loads(text)[name])


def count_tokens(text: str) -> int:
    """Length in words, digits and punctuation marks: near to a BPE's tokens, and the same for every model."""
    return len(re.findall(r"[^\W\d]+|\d|[^\w\s]", text))


def split_of(name: str) -> Split:
    """The one split that a subject's name belongs to: 80 % train, 10 % profile, 10 % verify."""
    bucket = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) % 10
    return Split.TRAIN if bucket < 8 else Split.PROFILE if bucket == 8 else Split.VERIFY


def names(split: Split, rng: random.Random) -> Iterator[str]:
    """Endless coined names of one split; no two within one input are alike."""
    seen: set[str] = set()
    while True:
        name = "".join(rng.choice(words(part)) for part in ("onset", "vowel", "coda", "ending")).capitalize()
        if name not in seen and split_of(name) is split:
            seen.add(name)
            yield name


def code(rng: random.Random) -> str:
    """A fresh answer of three or four digits."""
    return str(rng.randint(100, 9999))


def filler(rng: random.Random) -> str:
    """One everyday sentence that answers nothing."""
    parts = {part: rng.choice(words(part)) for part in ("who", "did", "where", "when", "thing", "quality")}
    template = rng.choice(words("fillers"))
    if not template.startswith("{who}"):
        parts["who"] = parts["who"][0].lower() + parts["who"][1:]
    return template.format(**parts)


def _plain(length: int, n_facts: int, split: Split, rng: random.Random) -> tuple[str, list[Fact]]:
    """A text of about `length` tokens and its facts, each about a subject of its own, at any depth."""
    naming = names(split, rng)
    facts = [Fact(rng.choice(words("attributes")), next(naming), code(rng)) for _ in range(n_facts)]
    sentences = [fact.answer for fact in facts]
    budget = length - count_tokens(" ".join(sentences) + _question(facts[0])) - 2
    while budget > 0:
        sentences.append(filler(rng))
        budget -= count_tokens(sentences[-1])
    rng.shuffle(sentences)
    return " ".join(sentences), facts


def _documents(split: Split, rng: random.Random) -> tuple[str, list[Fact]]:
    """Several documents, one per subject, that state the same attribute; only the title tells which is which."""
    naming, attribute = names(split, rng), rng.choice(words("attributes"))
    facts = [Fact(attribute, next(naming), code(rng)) for _ in range(rng.randint(3, 5))]
    documents = []
    for fact in facts:
        body = " ".join(filler(rng) for _ in range(rng.randint(1, 4)))
        documents.append(f"File {fact.subject}: The {attribute} is {fact.value}. {body}")
    rng.shuffle(documents)
    return "\n".join(documents), facts


def _question(fact: Fact) -> str:
    return f"\nQuestion: What is the {fact.attribute} of {fact.subject}?\nAnswer:"


def _depth(text: str, fact: Fact) -> float:
    """Where the fact (or its document) begins, from 0 to almost 1."""
    return text.index(f" {fact.subject}") / len(text)


def _sample(split: Split, rng: random.Random, identifier: str) -> Sample:
    stratum = rng.choice(STRATA)
    is_plain = stratum != DOCUMENTS
    text, facts = _plain(int(stratum), FACTS[int(stratum)], split, rng) if is_plain else _documents(split, rng)
    asked = facts[0]
    meta: dict[str, Any] = {"answers": [asked.value], "depth": _depth(text, asked)}
    return Sample(identifier, text + _question(asked), asked.answer, stratum, meta=meta)


def _drill(split: Split, rng: random.Random, identifier: str) -> Sample:
    """A text of any length and up to eight questions about it: far more to learn from per token than one answer.

    The shortest texts state one fact, so that copying can be learnt before choosing.
    """
    if rng.random() < 0.25:
        text, facts = _documents(split, rng)
    else:
        length = int(2 ** rng.uniform(4.5, 10))
        text, facts = _plain(length, max(1, min(20, length // 25)), split, rng)
    asked = facts[:8]
    turns = [f"{fact.answer}{_question(following)}" for fact, following in itertools.pairwise(asked)]
    meta: dict[str, Any] = {"answers": [asked[0].value], "depth": _depth(text, asked[0])}
    target = "".join([*turns, asked[-1].answer])
    return Sample(identifier, text + _question(asked[0]), target, DRILL, meta=meta)


def generate(request: SampleRequest) -> Iterator[Sample]:
    """Samples of one split, or its drill where `data` says so. The train split is endless when `n` is None."""
    make = _drill if request.data == DRILL else _sample
    rng = random.Random(f"long_context/{request.data}/{request.split}/{request.seed}")
    endless = request.n is None and request.split is Split.TRAIN
    numbers = itertools.count() if endless else range(POOL if request.n is None else request.n)
    for index in numbers:
        yield make(request.split, rng, f"long_context-{request.split}-{index}")
