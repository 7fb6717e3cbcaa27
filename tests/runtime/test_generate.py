"""Answers: streamed as generated, in a list as alone, the same every time, and what was measured."""

from __future__ import annotations

import threading

import pytest
import torch

from nexus import NexusModel, ToolCall, UsageError
from nexus.model import _batches
from nexus_core.bundle.reader import open_bundle
from nexus_core.student.answer import StudentAnswerer
from nexus_core.types import GenerateOptions, Sample

OPEN = ("reasoning", "tools")
WEATHER = {
    "name": "get_weather",
    "description": "The weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
SAMPLED = {"temperature": 1.2, "top_p": 0.95, "seed": 7}


@pytest.mark.parametrize("capability", OPEN)
@pytest.mark.parametrize("options", [{}, SAMPLED, {"max_new_tokens": 1}, {"stop": ("e", "a ")}], ids=str)
def test_streamed_is_generated_and_a_list_is_each_alone(random_model, prompts, capability, options):
    alone = [random_model.generate(prompt, capability, **options) for prompt in prompts]
    assert ["".join(random_model.stream(prompt, capability, **options)) for prompt in prompts] == alone
    assert random_model.generate(prompts, capability, **options) == alone
    assert random_model.generate(tuple(reversed(prompts)), capability, **options) == alone[::-1]
    assert any(alone)


@pytest.mark.parametrize("capability", OPEN)
def test_the_answers_are_those_that_the_gate_measures(random_model, random_bundle, prompts, capability):
    student = open_bundle(random_bundle).student()
    samples = [Sample(str(i), prompt, "") for i, prompt in enumerate(prompts)]
    answerer = StudentAnswerer(student.model, student.tokenizer, capability)
    expected = answerer.generate(samples, GenerateOptions(max_new_tokens=24))
    assert random_model.generate(prompts, capability) == expected
    assert expected != StudentAnswerer(student.model, student.tokenizer, None).generate(samples, GenerateOptions(24))


def test_loading_again_gives_the_same_answers(random_model, random_bundle, prompts):
    again = NexusModel.load(random_bundle)
    for options in ({}, SAMPLED):
        assert again.generate(prompts, "reasoning", **options) == random_model.generate(prompts, "reasoning", **options)


def test_the_order_of_questions_does_not_matter(random_bundle, prompts):
    first, second = NexusModel.load(random_bundle), NexusModel.load(random_bundle)
    one = {name: first.generate(prompts, name) for name in OPEN}
    other = {name: second.generate(prompts, name) for name in reversed(OPEN)}
    assert one == other
    assert one["reasoning"] != one["tools"]


def test_another_seed_draws_another_answer(random_model):
    drawn = {random_model.generate("a", "reasoning", temperature=1.0, seed=seed) for seed in range(5)}
    assert len(drawn) == 5


def test_more_prompts_than_one_batch_holds(random_model):
    many = [f"{i} and {i * i}" for i in range(70)]
    options = {"max_new_tokens": 5}
    assert random_model.generate(many, "tools", **options) == [
        random_model.generate(p, "tools", **options) for p in many
    ]


def test_long_prompts_do_not_wait_with_short_ones():
    found = list(_batches([10, 2000, 90, 1900, 130, 10, 9000], 3))
    assert found == [[0, 5, 2], [4], [3, 1], [6]]
    assert list(_batches([], 3)) == []


def test_in_half_precision_too_streamed_is_generated(random_bundle, prompts):
    """As on a GPU, where a student computes in 16 bits: bottlenecks are not folded then."""
    model = NexusModel(open_bundle(random_bundle), torch.device("cpu"), torch.bfloat16)
    model._towers.rehearse(model._tokenizer)
    for name in OPEN:
        alone = [model.generate(prompt, name) for prompt in prompts]
        assert ["".join(model.stream(prompt, name)) for prompt in prompts] == alone
        assert any(alone)
    assert model._model.adapters["reasoning"].state_dict()["sites.0.gate"].dtype is torch.bfloat16


def test_an_empty_list_has_no_answers(random_model):
    assert random_model.generate([], "reasoning") == []


# --- text, to the character --------------------------------------------------------------------------------------------


def test_a_character_of_several_tokens_comes_whole(chain_model):
    assert chain_model.generate("~", "reasoning") == "é漢🙂"
    assert list(chain_model.stream("~", "reasoning")) == ["é", "漢", "🙂"]
    assert list(chain_model.stream("~", "reasoning", max_new_tokens=4)) == ["é", "\N{REPLACEMENT CHARACTER}"]
    assert chain_model.generate("~", "reasoning", max_new_tokens=4) == "é\N{REPLACEMENT CHARACTER}"


def test_pieces_come_as_they_are_written(chain_model, words):
    assert list(chain_model.stream("?", "reasoning")) == words


@pytest.mark.parametrize(
    ("stop", "text", "pieces"),
    [
        (" the END", "The cat sat 😀 on", ["The", " cat", " sat", " 😀", " on"]),
        ("END", "The cat sat 😀 on the ", ["The", " cat", " sat", " 😀", " on", " the "]),
        ("t sat", "The ca", ["The", " ca"]),  # it begins inside one piece and ends inside another
        ("at 😀 on th", "The cat s", ["The", " c", "at s"]),  # "at" was held back, and was not it
        (("zzz", " mat"), "The cat sat 😀 on the END", ["The", " cat", " sat", " 😀", " on", " the END"]),
        (("cat s", " cat"), "The", ["The"]),
        ("The", "", []),
        (" mats", "The cat sat 😀 on the END mat", ["The", " cat", " sat", " 😀", " on", " the END", " mat"]),
    ],
)
def test_no_part_of_a_stop_string_is_handed_out(chain_model, stop, text, pieces):
    assert chain_model.generate("?", "reasoning", stop=stop) == text
    found = list(chain_model.stream("?", "reasoning", stop=stop))
    assert "".join(found) == text
    assert [piece for piece in found if piece] == found == pieces


def test_after_a_stop_string_nothing_is_computed(chain_model, monkeypatch):
    steps = []
    from nexus_core.student import decode

    monkeypatch.setattr(
        decode._Decoder, "step", lambda self, tokens, _step=decode._Decoder.step: steps.append(1) or _step(self, tokens)
    )
    chain_model.generate("?", "reasoning")
    whole, steps[:] = len(steps), []
    chain_model.generate("?", "reasoning", stop="cat")
    assert len(steps) == 1 < whole


def test_in_a_list_each_answer_ends_at_its_own_stop(chain_model):
    assert chain_model.generate(["?", "~", "say ?"], "reasoning", stop=[" cat", "漢"]) == ["The", "é", "The"]


# --- tools -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capability", ["tools", "agent"])
def test_with_tools_the_answer_is_a_checked_call(chain_model, capability):
    expected = ToolCall("get_weather", {"city": "Oslo"})
    assert chain_model.generate("Is it cold?", capability, tools=[WEATHER]) == expected
    assert chain_model.generate(["Is it cold?"] * 2, capability, tools={"get_weather": WEATHER}) == [expected] * 2
    assert chain_model.generate("x", capability, tools=[{"type": "function", "function": WEATHER}]) == expected


def test_a_streamed_call_is_its_text(chain_model, call):
    pieces = list(chain_model.stream("Is it cold?", "agent", tools=[WEATHER]))
    assert len(pieces) > 3
    assert "".join(pieces) == call


def test_a_call_that_breaks_its_schema_is_an_error(chain_model):
    numbers = {**WEATHER, "parameters": {"type": "object", "properties": {"city": {"type": "integer"}}}}
    with pytest.raises(Exception, match="breaks its schema"):
        chain_model.generate("Is it cold?", "agent", tools=[numbers])
    other = {**WEATHER, "name": "other"}
    with pytest.raises(Exception, match="unknown tool 'get_weather'") as caught:
        chain_model.generate(["Is it cold?", "Is it?"], "agent", tools=[other])
    assert caught.value.__notes__ == ["plugin text, hook decode", "prompt 1"]
    stream = chain_model.stream("Is it cold?", "agent", tools=[other])
    with pytest.raises(Exception, match="unknown tool"):
        list(stream)


def test_the_prompt_of_a_call_is_the_packs(chain_model):
    """What the capability was taught and verified with, to the letter."""
    from nexus_capability_tools.generator import tools as catalogue

    from nexus.prompts import read_tools, tool_prompt
    from nexus_core.plugins import Plugins
    from nexus_core.types import SampleRequest, Split

    for sample in Plugins().capability_metric("tools").samples(SampleRequest(Split.VERIFY, 60)):
        offered = read_tools([catalogue()[name] for name in sample.meta["tools"]])
        request = sample.prompt.split("\nRequest: ")[1].removesuffix("\nJSON:")
        assert tool_prompt(request, offered) == sample.prompt


# --- threads -----------------------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other(random_bundle, prompts):
    model = NexusModel.load(random_bundle)
    jobs = [(name, prompt, options) for name in OPEN for prompt in prompts for options in ({}, SAMPLED)]
    expected = [NexusModel.load(random_bundle).generate(p, name, **options) for name, p, options in jobs[:4]]
    alone = [model.generate(p, name, **options) for name, p, options in jobs]
    assert alone[:4] == expected
    found: dict[tuple[int, int], str] = {}
    start = threading.Barrier(4)

    def work(own: int) -> None:
        start.wait()
        for i in range(len(jobs)):
            job = (i + own * 5) % len(jobs)
            name, prompt, options = jobs[job]
            ask = model.generate if own % 2 else lambda *a, **k: "".join(model.stream(*a, **k))
            found[own, job] = ask(prompt, name, **options)

    threads = [threading.Thread(target=work, args=(own,)) for own in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {job: found[own, job] for own in range(4) for job in range(len(jobs))} == dict(enumerate(alone))
    assert all(found[own, job] == alone[job] for own in range(4) for job in range(len(jobs)))


def test_a_stream_that_is_not_read_on_stops_nobody(random_model, prompts):
    stream = random_model.stream(prompts[2], "reasoning")
    begun = next(stream)
    other = random_model.generate(prompts[2], "tools")
    assert begun + "".join(stream) == random_model.generate(prompts[2], "reasoning")
    assert other == random_model.generate(prompts[2], "tools")


# --- what cannot be asked ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"capability": "reasonin"}, 'did you mean "reasoning"'),
        ({"capability": 3}, "the capability is 3"),
        ({"capability": "reasoning", "max_tokens": 3}, 'did you mean "max_new_tokens"'),
        ({"capability": "reasoning", "max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"capability": "reasoning", "fallback": "teacher"}, "fallback is 'teacher'"),
        ({"capability": "tools", "tools": []}, "at least one tool"),
        ({"prompt": "", "capability": "reasoning"}, "the prompt is empty"),
        ({"prompt": 3, "capability": "reasoning"}, "a prompt is int"),
        ({"prompt": ["a", None], "capability": "reasoning"}, "a prompt is NoneType"),
        ({"prompt": "\ud83d", "capability": "reasoning"}, "surrogate"),
    ],
)
def test_a_wrong_argument_is_said_before_anything_is_computed(random_model, arguments, said):
    with pytest.raises(UsageError, match=said):
        random_model.generate(**{"prompt": "a", **arguments})
    with pytest.raises(UsageError):
        list(random_model.stream(**{"prompt": "a", **arguments}))


def test_a_long_prompt_loses_its_beginning_and_that_is_said(random_model, caplog):
    long = "x" * 400
    answer = random_model.generate(long, "reasoning", max_new_tokens=4)
    assert "longer than the 256 tokens" in caplog.text
    assert answer == random_model.generate("y" * 50 + long, "reasoning", max_new_tokens=4)
    caplog.clear()
    random_model.generate("x" * 200, "reasoning", max_new_tokens=4)
    assert not caplog.text
