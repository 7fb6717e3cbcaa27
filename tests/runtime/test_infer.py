"""`nexus infer`, as the shell runs it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from nexus_core.cli.main import main

DIGITS = "12345 + 67890"
TOOL = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {}}, "required": ["city"]}}


@pytest.fixture
def infer(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    def run(*arguments: object) -> SimpleNamespace:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["infer", *map(str, arguments)])
        said = capsys.readouterr()
        return SimpleNamespace(status=int(ended.value.code or 0), out=said.out, err=said.err)

    return run


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[[bytes], None]:
    return lambda raw: monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(raw)))


def test_it_prints_the_answer(infer, random_bundle, random_model):
    said = infer(random_bundle, "--capability", "reasoning", "--prompt", "a")
    assert (said.status, said.out, said.err) == (0, random_model.generate("a", "reasoning") + "\n", "")


def test_streamed_it_is_the_same(infer, chain_bundle):
    arguments = (chain_bundle, "--capability", "reasoning", "--prompt", "?")
    assert infer(*arguments, "--stream").out == infer(*arguments).out == "The cat sat 😀 on the END mat\n"
    assert infer(*arguments, "--stop", " on", "--stop", "zzz").out == "The cat sat 😀\n"
    assert infer(*arguments, "--max-new-tokens", 2).out == "The cat\n"


def test_the_prompt_comes_from_the_standard_input(infer, random_bundle, random_model, stdin):
    stdin("Zürich 東京\n".encode())
    said = infer(random_bundle, "--capability", "agent", "--prompt", "-")
    assert said.out == random_model.generate("Zürich 東京", "tools") + "\n"
    stdin(b"\xff\xfe")
    said = infer(random_bundle, "--capability", "agent", "--prompt", "-")
    assert said.status == 2
    assert "no UTF-8" in said.err


def test_options_reach_the_model(infer, random_bundle, random_model):
    drawn = ("--temperature", 1.1, "--top-p", 0.9, "--seed", 3)
    said = infer(random_bundle, "--capability", "reasoning", "--prompt", "a", *drawn)
    assert said.out == random_model.generate("a", "reasoning", temperature=1.1, top_p=0.9, seed=3) + "\n"


def test_the_router_chooses_or_says_that_it_cannot(infer, random_bundle, random_model):
    said = infer(random_bundle, "--prompt", DIGITS, "--json")
    document = json.loads(said.out)
    assert document["capability"] == "reasoning"
    assert document["text"] == random_model.generate(DIGITS)
    assert document["router"]["probabilities"] == dict(random_model.route(DIGITS).probabilities)
    said = infer(random_bundle, "--prompt", "one two three")
    assert said.status == 2
    assert "recognises no capability" in said.err
    said = infer(random_bundle, "--prompt", "one two three", "--fallback", "backbone", "--json")
    assert json.loads(said.out)["capability"] is None


def test_with_tools_it_prints_the_call(infer, chain_bundle, tmp_path):
    tools = tmp_path / "tools.json"
    tools.write_text(json.dumps([TOOL]))
    arguments = (chain_bundle, "--capability", "agent", "--tools", tools, "--prompt", "Is it cold?")
    call = {"name": "get_weather", "arguments": {"city": "Oslo"}}
    assert json.loads(infer(*arguments).out) == call
    assert json.loads(infer(*arguments, "--stream").out) == call
    assert json.loads(infer(*arguments, "--json").out) == {"capability": "tools", "router": None, "tool_call": call}
    tools.write_text("[")
    assert infer(*arguments).status == 2
    tools.write_text("[" * 100_000)
    assert infer(*arguments).status == 2
    tools.write_text(json.dumps([{**TOOL, "name": "other"}]))
    said = infer(*arguments)
    assert said.status == 1
    assert "unknown tool 'get_weather'" in said.err


def test_an_isolated_capability_needs_the_flag(infer, random_bundle, random_model):
    arguments = (random_bundle, "--capability", "uncensored", "--prompt", "a")
    said = infer(*arguments)
    assert said.status == 2
    assert "--enable-uncensored" in said.err
    assert infer(*arguments, "--enable-uncensored").out.strip("\n") == random_model.generate(
        "a", "uncensored", enable_uncensored=True
    ).strip("\n")


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["--capability", "reasonin", "--prompt", "a"], 2, 'did you mean "reasoning"'),
        (["--capability", "reasoning", "--prompt", ""], 2, "the prompt is empty"),
        (["--prompt", "a", "--stream", "--json"], 2, "exclude each other"),
        (["--prompt", "a", "--device", "cuda:99"], 2, "cannot be used"),
        (["--capability", "reasoning", "--prompt", "a", "--temperature", "nan"], 2, "temperature is nan"),
        (["--capability", "reasoning"], 2, "--prompt"),
    ],
)
def test_what_cannot_be_meant(infer, random_bundle, arguments, status, said):
    ended = infer(random_bundle, *arguments)
    assert ended.status == status
    assert said in ended.err
    assert ended.out == ""


def test_a_tampered_bundle_is_refused_unless_told_otherwise(infer, copied):
    with (copied / "README.md").open("ab") as file:
        file.write(b"!")
    arguments = (copied, "--capability", "reasoning", "--prompt", "a")
    said = infer(*arguments)
    assert said.status == 1
    assert "README.md" in said.err
    with (copied / "README.md").open("rb+") as file:
        file.seek(-1, 2)
        file.truncate()
        file.seek(0)
        file.write(b"?")
    assert infer(*arguments).status == 1
    assert infer(*arguments, "--no-verify").status == 0
