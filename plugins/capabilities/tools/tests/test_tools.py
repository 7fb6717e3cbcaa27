"""The pack's own samples: many tools, disjoint splits, one right answer, nothing to remember."""

import itertools
import json
import subprocess
import sys

import jsonschema
import pytest
from nexus_capability_tools.generator import fields_of, tools
from nexus_capability_tools.metric import Tools, validity
from nexus_capability_tools.slots import KINDS, data_file, draw, split_of

from nexus_core.types import Direction, Sample, SampleRequest, Split

METRIC = Tools()


def samples(split: Split, n: int = 400, seed: int = 42) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(split, n, seed)))


def test_the_hook_answers_for_its_own_name_only_and_the_plugin_is_light() -> None:
    program = (
        "import sys; from nexus_capability_tools import plugin;"
        "assert plugin.capability_metric('math') is None;"
        "assert 'jsonschema' not in sys.modules and 'torch' not in sys.modules;"
        "assert plugin.capability_metric('tools').metric == 'call_accuracy'"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
    assert METRIC.direction is Direction.HIGHER


def test_at_least_24_tools_each_with_a_schema_and_varied_requests() -> None:
    assert len(tools()) >= 24
    assert tools().keys() == data_file("requests.json").keys()
    for name, entry in data_file("requests.json").items():
        schema = tools()[name]["parameters"]
        jsonschema.Draft202012Validator.check_schema(schema)
        assert entry["slots"].keys() == schema["properties"].keys()
        assert len(set(entry["requests"])) == len(entry["requests"]) >= 3
        for template in entry["requests"]:
            filled = set(fields_of(template))
            assert set(schema["required"]) <= filled <= schema["properties"].keys(), template
            assert any(not entry["slots"][slot].startswith("=") for slot in filled), "every request needs an open slot"


def test_each_property_is_asked_for_somewhere() -> None:
    for name, entry in data_file("requests.json").items():
        asked = set(itertools.chain.from_iterable(map(fields_of, entry["requests"])))
        assert asked == tools()[name]["parameters"]["properties"].keys()


def test_splits_are_disjoint_by_digest_and_by_every_open_value() -> None:
    digests, values = {}, {}
    for split in Split:
        drawn = samples(split, 1500)
        digests[split] = {sample.digest for sample in drawn}
        assert len(digests[split]) == 1500
        values[split] = set()
        for sample in drawn:
            kinds = data_file("requests.json")[sample.stratum]["slots"]
            arguments = json.loads(sample.target)["arguments"]
            values[split] |= {(kinds[k], v) for k, v in arguments.items() if not kinds[k].startswith("=")}
    for left, right in itertools.combinations(Split, 2):
        assert not digests[left] & digests[right]
        assert not values[left] & values[right]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_slot_kind_has_values_in_every_split(kind: str) -> None:
    import random

    for split in Split:
        value = draw(kind, split, random.Random(1))
        assert split_of(kind, value) is split


def test_order_depends_on_the_seed_alone_and_train_is_endless() -> None:
    assert samples(Split.VERIFY, 50) == samples(Split.VERIFY, 50)
    assert samples(Split.VERIFY, 50) == samples(Split.VERIFY, 80)[:50]
    assert samples(Split.VERIFY, 50) != samples(Split.VERIFY, 50, seed=7)
    endless = METRIC.samples(SampleRequest(Split.TRAIN))
    assert len(list(itertools.islice(endless, 5000))) == 5000


def test_every_value_is_copied_from_the_request_and_prompts_are_short() -> None:
    for sample in samples(Split.VERIFY):
        offered, request, _ = sample.prompt.split("\n")
        call = json.loads(sample.target)
        assert f" {call['name']}(" in offered
        assert 3 <= len(sample.meta["tools"]) <= 4
        for value in call["arguments"].values():
            assert str(value) in request
        assert len(sample.prompt) < 320


def test_reference_calls_score_one_and_are_valid() -> None:
    drawn = samples(Split.PROFILE)
    targets = [sample.target for sample in drawn]
    assert METRIC.aggregate(drawn, METRIC.score_all(drawn, targets)) == 1.0
    assert validity(drawn, targets) == 1.0


def test_key_order_and_blanks_do_not_matter() -> None:
    for sample in samples(Split.VERIFY, 50):
        call = json.loads(sample.target)
        turned = {"arguments": dict(reversed(call["arguments"].items())), "name": call["name"]}
        assert METRIC.score(sample, "  " + json.dumps(turned, indent=2) + "\n") == 1.0


def test_a_wrong_name_value_or_key_scores_zero() -> None:
    for sample in samples(Split.VERIFY, 100):
        call = json.loads(sample.target)
        key, value = next(iter(call["arguments"].items()))
        other = next(name for name in sample.meta["tools"] if name != call["name"])
        changed = value + 1 if isinstance(value, int | float) else value + "x"
        wrong = [
            {**call, "name": other},
            {**call, "name": "no_such_tool"},
            {**call, "arguments": {**call["arguments"], key: changed}},
            {**call, "arguments": {k: v for k, v in call["arguments"].items() if k != key}},
            {**call, "arguments": {**call["arguments"], "extra": 1}},
        ]
        assert [METRIC.score(sample, json.dumps(attempt)) for attempt in wrong] == [0.0] * len(wrong)


def test_neither_chance_nor_memory_solves_it() -> None:
    request = SampleRequest(Split.VERIFY, 200)
    drawn = list(METRIC.samples(request))
    outputs = METRIC.baselines(request)
    assert set(outputs) == {"random", "majority", "nearest"}
    for name, answers in outputs.items():
        assert METRIC.aggregate(drawn, METRIC.score_all(drawn, answers)) <= 0.02, name
    assert validity(drawn, outputs["random"]) == 1.0  # plausible calls, and wrong
