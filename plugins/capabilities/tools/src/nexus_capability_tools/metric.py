"""The metric `call_accuracy`, the helper `validity`, and the baselines that need no model."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from nexus_capability_tools import bindings
from nexus_capability_tools.calls import accepts, is_valid, parse_call, same
from nexus_capability_tools.generator import call_text, generate
from nexus_capability_tools.slots import data_file, draw
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

MEMORY = 1000  # train samples that the `nearest` control remembers


def validity(samples: Sequence[Sample], outputs: Sequence[Any]) -> float:
    """Share of outputs that are one schema-valid call of a tool on offer, right or wrong."""
    calls = zip(samples, map(parse_call, outputs), strict=True)
    return sum(is_valid(call, sample.meta["tools"]) for sample, call in calls) / max(len(samples), 1)


class Tools(CapabilityMetric):
    """One request, a few tools, one right call."""

    name = "tools"
    metric = "call_accuracy"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=96)

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        return generate(request) if request.data is None else bindings.bind(request)

    def score(self, sample: Sample, output: Any) -> float:
        """1 if the output is exactly one JSON call that is valid and equal to the reference, else 0."""
        call, reference = parse_call(output), parse_call(sample.target)
        assert reference is not None, sample.id
        if call is None or not is_valid(call, sample.meta["tools"]) or call.name != reference.name:
            return 0.0
        possible = sample.meta.get("possible")
        if possible is not None:
            return float(accepts(possible, call.arguments))
        return float(same(call.arguments, reference.arguments))

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[str]]:
        """`random`: any offered tool with plausible values. `majority`: the commonest call of the train split.

        `nearest`: the call of the most similar train request, which is what memorising the train split is worth.
        """
        samples = list(self.samples(request))
        known = list(islice(self.samples(replace(request, split=Split.TRAIN, n=MEMORY)), MEMORY))
        rng = random.Random(f"tools/random/{request.seed}")
        made_up = [_random_call(sample, rng) for sample in samples]
        if not known:  # a small dataset may have no train row at all
            return {"random": made_up}
        commonest = Counter(sample.target for sample in known).most_common(1)[0][0]
        return {"random": made_up, "majority": [commonest] * len(samples), "nearest": _nearest(samples, known)}


def _random_call(sample: Sample, rng: random.Random) -> str:
    name = rng.choice(sorted(sample.meta["tools"]))
    schema = sample.meta["tools"][name]
    kinds = data_file("requests.json").get(name, {"slots": {}})["slots"]
    required = schema.get("required", [])
    return call_text(
        name, {key: _random_value(schema["properties"].get(key, {}), kinds.get(key), rng) for key in required}
    )


def _random_value(schema: Mapping[str, Any], kind: str | None, rng: random.Random) -> Any:
    if schema.get("enum"):
        return rng.choice(schema["enum"])
    if kind is not None:
        return draw(kind, Split.TRAIN, rng)
    drawn = {"integer": rng.randint(1, 10), "number": rng.randint(1, 10), "boolean": rng.random() < 0.5, "array": []}
    return drawn.get(schema.get("type", ""), "value")


def _nearest(samples: Sequence[Sample], known: Sequence[Sample]) -> list[str]:
    memory = [(_words(sample), sample.target) for sample in known]
    answers = []
    for sample in samples:
        words = _words(sample)
        answers.append(max(memory, key=lambda entry: len(words & entry[0]) / len(words | entry[0]))[1])
    return answers


def _words(sample: Sample) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", sample.prompt))
