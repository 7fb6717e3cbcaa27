"""Text out of token ids, and tool calls that their schemas accept; anything else is an error that says what was written."""

from __future__ import annotations

import json

import pytest

from nexus_core.errors import NexusError
from nexus_core.plugins import Plugins
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import AdapterPlan, DecodeOptions, ToolCall

WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "minLength": 1}, "days": {"type": "integer", "maximum": 7}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOLS = DecodeOptions(tools=(WEATHER, {"name": "now"}))


@pytest.fixture(scope="module")
def plugins():
    return Plugins(["text"])


def test_text_of_ids_without_special_tokens(plugins):
    tokenizer = byte_tokenizer()
    ids = [tokenizer.bos_token_id, *tokenizer("naïve ✓")["input_ids"], tokenizer.eos_token_id, tokenizer.pad_token_id]
    assert plugins.decode("text", ids, DecodeOptions(processor=tokenizer)) == "naïve ✓"
    assert plugins.decode("text", [], DecodeOptions(processor=tokenizer)) == ""


def test_text_stays_text(plugins):
    assert plugins.decode("text", "as it was") == "as it was"


def test_ids_without_a_tokenizer_are_an_error(plugins):
    with pytest.raises(NexusError, match="without a tokenizer") as caught:
        plugins.decode("text", [3, 4])
    assert "DecodeOptions(processor=tokenizer)" in caught.value.hint


@pytest.mark.parametrize(
    ("written", "call"),
    [
        (
            '{"name": "weather", "arguments": {"city": "Oslo", "days": 3}}',
            ToolCall("weather", {"city": "Oslo", "days": 3}),
        ),
        ('  \n{"arguments": {"city": "Łódź"}, "name": "weather"}\n', ToolCall("weather", {"city": "Łódź"})),
        ('{"name": "now", "arguments": {}}', ToolCall("now", {})),
        ('{"name": "now", "arguments": {"anything": [1, null]}}', ToolCall("now", {"anything": [1, None]})),
    ],
)
def test_a_call(plugins, written, call):
    assert plugins.decode("tool_call", written, TOOLS) == call


def test_a_call_out_of_ids(plugins):
    tokenizer = byte_tokenizer()
    ids = tokenizer('{"name": "now", "arguments": {}}')["input_ids"]
    options = DecodeOptions(processor=tokenizer, tools=TOOLS.tools)
    assert plugins.decode("tool_call", ids, options) == ToolCall("now", {})


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("", "wrote no JSON call"),
        ("I would call weather", "wrote no JSON call: 'I would call weather'"),
        ('{"name": "weather"', "wrote no JSON call"),
        ('{"name": "now", "arguments": {}} {"name": "now", "arguments": {}}', "wrote no JSON call"),
        ('{"name": "now", "arguments": {"x": NaN}}', "wrote no JSON call"),
        ('{"name": "now", "arguments": {"x": -Infinity}}', "wrote no JSON call"),
        ("[" * 50_000, "wrote no JSON call"),
        ('{"name": "now", "arguments": {"x": ' + "9" * 5000 + "}}", "wrote no JSON call"),
        ("x" * 100_000, "wrote 100,000 characters"),
        ("[1]", "wrote list where a call was wanted"),
        ('"weather"', "wrote str where a call was wanted"),
        ("null", "wrote NoneType where a call was wanted"),
        ("{}", "has not the form"),
        ('{"name": "now"}', "has not the form"),
        ('{"name": 3, "arguments": {}}', "has not the form"),
        ('{"name": "now", "arguments": []}', "has not the form"),
        ('{"name": "now", "arguments": {}, "why": "because"}', "has not the form"),
        ('{"name": "rm", "arguments": {}}', "unknown tool 'rm'"),
        ('{"name": "weather", "arguments": {}}', "'city' is a required property"),
        ('{"name": "weather", "arguments": {"city": ""}}', "breaks its schema"),
        ('{"name": "weather", "arguments": {"city": "Oslo", "days": 8}}', "8 is greater than the maximum of 7"),
        ('{"name": "weather", "arguments": {"city": "Oslo", "days": true}}', "breaks its schema"),
        ('{"name": "weather", "arguments": {"city": "Oslo", "extra": 1}}', "breaks its schema"),
        ('{"name": "weather", "name": "now", "arguments": {}}', "wrote no JSON call"),
    ],
)
def test_what_is_no_call(plugins, written, said):
    with pytest.raises(NexusError, match=said) as caught:
        plugins.decode("tool_call", written, TOOLS)
    assert caught.value.hint
    assert caught.value.__notes__ == ["plugin text, hook decode"]
    assert len(str(caught.value)) < 500


def test_without_tools_every_call_is_unknown(plugins):
    with pytest.raises(NexusError, match="unknown tool 'now'") as caught:
        plugins.decode("tool_call", '{"name": "now", "arguments": {}}')
    assert caught.value.hint == "known tools: none"


@pytest.mark.parametrize(
    "schema",
    [{"type": "no-such-type"}, 3, {"properties": []}, {"properties": {"a": {"pattern": "("}}}, {"$ref": "#"},
     {"$ref": "#/nowhere"}, {"$ref": "https://example.org/schema.json"}],
    ids=str,
)  # fmt: skip
def test_a_schema_that_is_none_is_an_error_of_the_tool(plugins, schema):
    options = DecodeOptions(tools=({"name": "bad", "parameters": schema},))
    with pytest.raises(NexusError, match="the schema of 'bad' cannot be used"):
        plugins.decode("tool_call", '{"name": "bad", "arguments": {"a": "1"}}', options)


def test_a_schema_reads_no_file(plugins, tmp_path):
    (tmp_path / "schema.json").write_text("{}")
    options = DecodeOptions(tools=({"name": "far", "parameters": {"$ref": (tmp_path / "schema.json").as_uri()}},))
    with pytest.raises(NexusError, match="the schema of 'far' cannot be used"):
        plugins.decode("tool_call", '{"name": "far", "arguments": {}}', options)


def test_a_call_is_plain_data(plugins):
    call = plugins.decode("tool_call", '{"name": "weather", "arguments": {"city": "Oslo"}}', TOOLS)
    assert json.loads(json.dumps(call.arguments)) == {"city": "Oslo"}


@pytest.mark.parametrize("kind", ["bottleneck"])
def test_the_tower_builds_its_own_adapters_only(plugins, kind):
    assert plugins.build_adapter(AdapterPlan("reasoning", "text", 16, 4, kind=kind)).down.weight.shape == (4, 16)
    for plan in (AdapterPlan("x", "voice", 16, 4), AdapterPlan("x", "text", 16, 4, kind="port")):
        with pytest.raises(NexusError, match="no tower plugin builds an adapter"):
            plugins.build_adapter(plan)
