"""Reading and judging calls: what counts, what does not, and what must not hurt."""

import time

import pytest
from nexus_capability_tools.calls import accepts, clean_schema, is_valid, parse_call, same

from nexus_core.errors import DataError

TOOLS = {
    "add": {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "unit": {"type": "string", "enum": ["m", "km"]}},
        "required": ["a"],
        "additionalProperties": False,
    }
}


@pytest.mark.parametrize("arguments", ['{"a": 1}', '{"unit": "m", "a": 1}', '{"a": 1.0}'])
def test_valid_calls(arguments: str) -> None:
    assert is_valid(parse_call(f'{{"name": "add", "arguments": {arguments}}}'), TOOLS)


@pytest.mark.parametrize("arguments", ["{}", '{"a": "1"}', '{"a": 1.5}', '{"a": 1, "b": 2}', '{"a": 1, "unit": "cm"}'])
def test_calls_that_break_the_schema(arguments: str) -> None:
    call = parse_call(f'{{"name": "add", "arguments": {arguments}}}')
    assert call is not None
    assert not is_valid(call, TOOLS)


def test_a_tool_that_is_not_on_offer_is_not_valid() -> None:
    assert not is_valid(parse_call('{"name": "sub", "arguments": {"a": 1}}'), TOOLS)


HOSTILE = {
    "nothing": "",
    "no text": None,
    "a number": 7,
    "bytes": b'{"name": "add", "arguments": {"a": 1}}',
    "prose": "I would call add with a = 1",
    "cut short": '{"name": "add", "arguments": {"a": 1}',
    "trailing text": '{"name": "add", "arguments": {"a": 1}} and more',
    "two calls": '{"name": "add", "arguments": {"a": 1}}{"name": "add", "arguments": {"a": 1}}',
    "code fence": '```json\n{"name": "add", "arguments": {"a": 1}}\n```',
    "duplicate key": '{"name": "add", "arguments": {"a": 2, "a": 1}}',
    "duplicate name": '{"name": "sub", "name": "add", "arguments": {"a": 1}}',
    "NaN": '{"name": "add", "arguments": {"a": NaN}}',
    "Infinity": '{"name": "add", "arguments": {"a": -Infinity}}',
    "overflow": '{"name": "add", "arguments": {"a": 1e999}}',
    "huge integer": '{"name": "add", "arguments": {"a": ' + "9" * 15_000 + "}}",
    "deep lists": '{"name": "add", "arguments": ' + "[" * 9_000 + "]" * 9_000 + "}",
    "deep objects": '{"name": "add", "arguments": ' + '{"a":' * 3_000 + "1" + "}" * 3_001,
    "huge": '{"name": "add", "arguments": {"a": 1, "unit": "' + "m" * 5_000_000 + '"}}',
    "many brackets": "[" * 5_000_000,
    "null bytes": "\0" * 100,
    "lone surrogate": '"\ud800"',
    "a list": '[{"name": "add", "arguments": {"a": 1}}]',
    "another key": '{"name": "add", "arguments": {"a": 1}, "thought": ""}',
    "arguments as text": '{"name": "add", "arguments": "{}"}',
    "name as a list": '{"name": ["add"], "arguments": {"a": 1}}',
}


@pytest.mark.parametrize("output", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_outputs_are_no_call_and_cost_no_time(output: object) -> None:
    began = time.perf_counter()
    assert parse_call(output) is None
    assert time.perf_counter() - began < 0.5


def test_arguments_nested_just_below_the_parsers_limit_are_judged_without_a_crash() -> None:
    call = parse_call('{"name": "add", "arguments": {"a": ' + "[" * 400 + "]" * 400 + "}}")
    assert call is not None
    assert not is_valid(call, TOOLS)
    assert not same(call.arguments, {"a": 1})


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        (3, 3.0, True),
        ({"a": 1, "b": [1, "x"]}, {"b": [1.0, "x"], "a": 1}, True),
        (True, 1, False),
        (False, 0, False),
        ("3", 3, False),
        (None, None, True),
        ([1, 2], [2, 1], False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ("Oslo", "oslo", False),
    ],
)
def test_equality_of_values(left: object, right: object, expected: bool) -> None:
    assert same(left, right) is expected
    assert same(right, left) is expected


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"city": "new york"}, True),
        ({"city": "NYC", "days": 3}, True),
        ({"city": "NYC", "days": 3.0}, True),
        ({"city": "NYC", "days": 4}, False),
        ({"city": "Boston"}, False),
        ({"days": 3}, False),
        ({"city": "NYC", "other": 1}, False),
        ({"city": "NYC", "where": {"x": 1}}, True),
        ({"city": "NYC", "where": {"x": 1, "y": "b"}}, True),
        ({"city": "NYC", "where": {"y": "b"}}, False),
        ({"city": "NYC", "tags": ["A", "b"]}, True),
        ({"city": "NYC", "tags": ["a"]}, False),
    ],
)
def test_possible_answers(arguments: dict[str, object], expected: bool) -> None:
    possible = {
        "city": ["New York", "NYC"],
        "days": [3, ""],
        "where": [{"x": [1], "y": ["b", ""]}, ""],
        "tags": [["a", "b"], ""],
    }
    assert accepts(possible, arguments) is expected


def test_foreign_schemas_become_plain_json_schema() -> None:
    schema = clean_schema(
        {
            "type": "dict",
            "properties": {"x": {"type": "float"}, "y": {"type": "any"}, "z": {"type": "tuple"}},
            "required": ["x"],
        },
        "here",
    )
    assert schema == {
        "type": "object",
        "properties": {"x": {"type": "number"}, "y": {}, "z": {"type": "array"}},
        "required": ["x"],
        "additionalProperties": False,
    }


def test_a_schema_cannot_reach_the_network_nor_hang_a_regular_expression() -> None:
    schema = clean_schema(
        {
            "type": "object",
            "properties": {"x": {"$ref": "http://192.0.2.1/schema", "type": "string", "pattern": "(a+)+$"}},
        },
        "here",
    )
    assert schema["properties"]["x"] == {"type": "string"}
    call = parse_call('{"name": "t", "arguments": {"x": "' + "a" * 5000 + '!"}}')
    assert is_valid(call, {"t": schema})


@pytest.mark.parametrize("schema", ["text", {"type": "nonsense"}, {"type": "object", "required": "x"}, {"enum": 3}])
def test_schemas_that_are_none_are_refused(schema: object) -> None:
    with pytest.raises(DataError, match="row 7"):
        clean_schema(schema, "row 7")
