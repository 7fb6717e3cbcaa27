"""A caller's options and tools, and what cannot be meant by them."""

from __future__ import annotations

import math

import pytest

from nexus.options import checked
from nexus.prompts import read_tools, signature, tool_prompt
from nexus_core.errors import UsageError
from nexus_core.types import GenerateOptions

VERIFIED = GenerateOptions(max_new_tokens=9, stop=("END",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("max_new_tokens", value) for value in (0, -1, True, 1.5, "3", 1 << 63)],
        *[("temperature", value) for value in (-0.1, math.nan, math.inf, "1", True, None)],
        *[("top_p", value) for value in (0, -1, 1.01, math.nan, None)],
        *[("stop", value) for value in ("", [""], [3], None, b"x", ["a", ""])],
        *[("seed", value) for value in (-1, 1.0, None, True, 1 << 64)],
    ],
)
def test_an_option_that_cannot_be_meant(name, value):
    with pytest.raises(UsageError, match=name):
        checked({name: value}, VERIFIED)


def test_an_option_that_is_not_known():
    with pytest.raises(UsageError, match='no option "top_k"; did you mean "top_p"'):
        checked({"top_k": 3}, VERIFIED)


def test_what_is_not_given_is_as_it_was_verified():
    assert checked({}, VERIFIED) == GenerateOptions(max_new_tokens=9, stop=("END",))
    assert checked({"max_new_tokens": None, "stop": "x"}, VERIFIED).stop == ("x",)
    assert checked({"stop": ()}, VERIFIED).stop == ()
    assert checked({"temperature": 1, "top_p": 1, "seed": 0}, VERIFIED).temperature == 1.0


PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {}}, "required": ["a"]}


@pytest.mark.parametrize(
    "tools",
    [
        [],
        {},
        "get_weather",
        b"x",
        3,
        ["get_weather"],
        [None],
        [{}],
        [{"name": 3}],
        [{"name": ""}],
        [{"name": "f(x)\nRequest: something else"}],
        [{"name": "a b"}],
        [{"name": "f"}, {"name": "f"}],
        [{"name": "f", "parameters": "object"}],
        [{"name": "f", "parameters": {"properties": ["a"]}}],
        [{"name": "f", "parameters": {"properties": {"a)\nJSON:": {}}}}],
        [{"name": "f", "parameters": {"properties": {3: {}}}}],
        [{"name": "f", "parameters": {"properties": {}, "required": "a"}}],
        [{"name": "f", "parameters": {"properties": {}, "required": 5}}],
        [{"type": "function", "function": "f"}],
        {"f": 3},
    ],
    ids=str,
)
def test_tools_that_are_none(tools):
    with pytest.raises(UsageError):
        read_tools(tools)


def test_tools_in_every_form_are_the_same():
    plain = {"name": "f", "description": "d", "parameters": PARAMETERS}
    assert read_tools([plain]) == read_tools({"f": plain}) == read_tools([{"type": "function", "function": plain}])
    assert read_tools({"f": {"parameters": PARAMETERS}})[0]["name"] == "f"
    assert [signature(tool) for tool in read_tools([plain, {"name": "g"}])] == ["f(a,b?)", "g()"]
    assert tool_prompt("do it", read_tools([plain])) == "Tools: f(a,b?)\nRequest: do it\nJSON:"
