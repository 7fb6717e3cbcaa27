"""Values for the slots of a request: names, cities, times, amounts, messages.

Every open value belongs to exactly one split, by the hash of its own text. So a city, a name or an hour that is asked
for in `verify` was never an argument in `train`, and a model must copy it from the request to be right.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from nexus_core.types import Split

Value = str | int | float

_ATTEMPTS = 10_000  # a tenth of all values is in the smallest split: missing it this often cannot be chance


@cache
def data_file(name: str) -> Any:
    """One of the pack's JSON files."""
    return json.loads(files("nexus_capability_tools").joinpath("data", name).read_text(encoding="utf-8"))


def split_of(kind: str, value: Value) -> Split:
    """The one split that a value of an open slot belongs to: 80 % train, 10 % profile, 10 % verify."""
    bucket = int.from_bytes(hashlib.sha256(f"{kind}\0{value}".encode()).digest()[:4]) % 10
    return Split.TRAIN if bucket < 8 else Split.PROFILE if bucket == 8 else Split.VERIFY


def draw(kind: str, split: Split, rng: random.Random) -> Value:
    """A value of one slot kind. `=name` is a closed list (units, currencies, rooms), shared by all splits."""
    if kind.startswith("="):
        return str(rng.choice(data_file("values.json")[kind[1:]]))
    for _ in range(_ATTEMPTS):
        value = KINDS[kind](rng)
        if split_of(kind, value) is split:
            return value
    raise AssertionError(f"slot kind {kind!r} has no value in split {split!r}")


def _pick(name: str, rng: random.Random) -> str:
    return str(rng.choice(data_file("values.json")[name]))


def _coined(rng: random.Random) -> str:
    """A made-up proper name: endless, so that copying is the only way to get it right."""
    middle = "".join(_pick(part, rng) for part in ("onset", "vowel", "coda"))
    return (middle + _pick("ending", rng)).capitalize()


def _place(rng: random.Random) -> str:
    return _pick("place", rng) if rng.random() < 0.5 else _coined(rng)


def _person(rng: random.Random) -> str:
    surname = _pick("surname", rng) if rng.random() < 0.5 else _coined(rng)
    first = _pick("first_name", rng) if rng.random() < 0.7 else _coined(rng)
    return f"{first} {surname}" if rng.random() < 0.6 else first


def _email(rng: random.Random) -> str:
    return f"{_pick('first_name', rng)}.{_coined(rng)}@{_pick('domain', rng)}".lower()


def _address(rng: random.Random) -> str:
    return f"{rng.randint(1, 99)} {_coined(rng)} {_pick('street', rng)}"


def _sentence(rng: random.Random) -> str:
    return f"{_pick('who', rng)} {_pick('verb', rng)} {_pick('where', rng)}"


def _product(rng: random.Random) -> str:
    return f"{_pick('quality', rng)} {_pick('product', rng)}"


def _file(rng: random.Random) -> str:
    stem = _pick("subject", rng) if rng.random() < 0.5 else _coined(rng).lower()
    return f"{stem}_{rng.randint(1, 999)}.{_pick('extension', rng)}"


def _letters(n: int, rng: random.Random) -> str:
    return "".join(rng.choices("ABCDEFGHJKLMNPQRSTUVWXYZ", k=n))


def _amount(rng: random.Random) -> Value:
    cents = rng.randint(100, 99_999)
    return cents // 100 if rng.random() < 0.5 or cents % 100 == 0 else cents / 100


KINDS: Mapping[str, Callable[[random.Random], Value]] = {
    "place": _place,
    "person": _person,
    "email": _email,
    "address": _address,
    "sentence": _sentence,
    "product": _product,
    "file": _file,
    "amount": _amount,
    "title": lambda rng: f"{_pick('adjective', rng)} {_pick('noun', rng)}".title(),
    "topic": lambda rng: f"{_pick('subject', rng)} {_pick('activity', rng)}",
    "date": lambda rng: f"{rng.randint(1, 28)} {_pick('month', rng)}",
    "time": lambda rng: f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}",
    "count": lambda rng: rng.randint(2, 99),
    "number": lambda rng: rng.randint(2, 999),
    "percent": lambda rng: rng.randint(1, 99),
    "degrees": lambda rng: rng.randint(5, 30) + rng.choice((0, 0.5)),
    "phone": lambda rng: f"{rng.randint(200, 999)}-{rng.randint(0, 9999):04d}",
    "symbol": lambda rng: _letters(4, rng),
    "code": lambda rng: f"{_letters(2, rng)}{rng.randint(1000, 9999)}",
}
