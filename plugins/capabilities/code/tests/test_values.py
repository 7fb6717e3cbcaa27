"""Values across the pipe."""

from __future__ import annotations

import json
import random
from collections import Counter, OrderedDict
from enum import IntEnum
from typing import Any

import pytest
from nexus_capability_code.values import decode, encode


def plain(rng: random.Random, depth: int = 0) -> Any:
    """A random value of plain data, nested up to three deep."""
    leaves = [
        None,
        True,
        rng.randint(-(10**20), 10**20),
        rng.random() * 1e300,
        float("inf"),
        '\u00e9\n"',
        b"\0\xff",
        1j,
        "",
    ]
    kind = rng.randrange(5 if depth < 3 else 1)
    if kind == 0:
        return rng.choice(leaves)
    items = [plain(rng, depth + 1) for _ in range(rng.randrange(4))]
    if kind == 3:
        return {rng.choice(("a", 1, None, (2, "b"))): item for item in items}
    return set(range(len(items))) if kind == 4 else items if kind == 1 else tuple(items)


@pytest.mark.parametrize("seed", range(50))
def test_values_come_back_with_their_types(seed: int) -> None:
    value = plain(random.Random(seed))
    back = decode(json.loads(json.dumps(encode(value))))
    assert repr(back) == repr(value)


def test_subclasses_become_plain() -> None:
    class Liar(int):
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = int.__hash__

    number = IntEnum("number", {"three": 3})
    for value in (Liar(3), number.three):
        assert type(decode(encode(value))) is int
    assert decode(encode(Counter("aab"))) == {"a": 2, "b": 1}
    assert type(decode(encode(OrderedDict(a=1)))) is dict


@pytest.mark.parametrize("value", [object(), len, (x for x in ()), type])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not plain data"):
        encode(value)


@pytest.mark.parametrize("value", [{"os": 1}, {}, {"list": [], "tuple": []}, [1], {"float": "x"}, 1.5])
def test_what_was_not_encoded_is_refused(value: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        decode(value)
