"""Reading frozen values: what is given comes back, and whatever else is named with its place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pytest

from nexus_core.errors import DataError
from nexus_core.strict import read_strict


@dataclass(frozen=True)
class Leaf:
    name: str
    size: float


@dataclass(frozen=True)
class Tree:
    version: int
    leaves: tuple[Leaf, ...]
    best: Leaf
    names: tuple[str, ...]
    rest: Mapping[str, Any]
    grown: bool = False


TREE = Tree(1, (Leaf("a", 0.5), Leaf("b", 2.0)), Leaf("c", 1.0), ("x", "y"), {"any": [1, None]}, True)


def read(raw):
    return read_strict(raw, Tree, "tree.json", "grow it again")


def test_what_was_written_comes_back_from_lists_too():
    assert read(asdict(TREE)) == TREE
    raw = {**asdict(TREE), "leaves": [{"name": "a", "size": 0.5}, {"name": "b", "size": 2}], "names": ["x", "y"]}
    assert read(raw) == TREE
    assert type(read(raw).leaves[1].size) is float


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"leafs": []}, r"tree\.json: unknown key 'leafs'"),
        ({7: []}, r"tree\.json: unknown key '7'"),
        ({"version": True}, r"tree\.json\.version is True, expected int"),
        ({"version": 1.0}, r"tree\.json\.version is 1\.0, expected int"),
        ({"version": "1"}, r"tree\.json\.version is '1', expected int"),
        ({"grown": 1}, r"tree\.json\.grown is 1, expected bool"),
        ({"names": "xy"}, r"tree\.json\.names: expected a list, found str"),
        ({"names": ["x", 3]}, r"tree\.json\.names\[1\] is 3, expected str"),
        ({"leaves": [{"name": "a", "size": 1}, {"name": "b"}]}, r"tree\.json\.leaves\[1\]: the key 'size' is missing"),
        ({"leaves": [{"name": "a", "size": None}]}, r"tree\.json\.leaves\[0\]\.size is None, expected float"),
        ({"best": {"name": "c", "size": 10**400}}, r"tree\.json\.best\.size is 1000.*, expected float"),
        ({"best": ["c", 1.0]}, r"tree\.json\.best: expected keys and values, found list"),
        ({"best": {"name": "c", "size": 1.0, "colour": 3}}, r"tree\.json\.best: unknown key 'colour'"),
        ({"rest": []}, r"tree\.json\.rest: expected keys and values, found list"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(change, message):
    with pytest.raises(DataError, match=message):
        read({**asdict(TREE), **change})


def test_a_default_is_no_excuse_for_a_missing_key():
    raw = asdict(TREE)
    del raw["grown"]
    with pytest.raises(DataError, match="the key 'grown' is missing") as error:
        read(raw)
    assert error.value.hint == "grow it again"


@pytest.mark.parametrize("raw", [None, 3, [], "tree"])
def test_what_is_no_mapping_is_told_which_keys_there_are(raw):
    with pytest.raises(DataError, match="expected keys and values") as error:
        read(raw)
    assert error.value.hint == "keys: version, leaves, best, names, rest, grown"


def test_a_long_value_does_not_fill_the_message():
    with pytest.raises(DataError) as error:
        read({**asdict(TREE), "version": "x" * 10_000})
    assert len(error.value.message) < 120
