"""Requests in varied English for the pack's own tools, each with the one call that answers it."""

from __future__ import annotations

import itertools
import json
import random
import string
from collections.abc import Iterator, Mapping
from typing import Any

from nexus_capability_tools.slots import Value, data_file, draw
from nexus_core.types import Sample, SampleRequest, Split

POOL = 2000  # samples of a held-out split when the request does not say how many
OFFERED = (3, 4)  # fewest and most tools in one prompt


def tools() -> dict[str, dict[str, Any]]:
    """The pack's tools by name: `{"name", "description", "parameters"}` with a JSON Schema."""
    return {tool["name"]: tool for tool in data_file("tools.json")}


def signature(tool: Mapping[str, Any]) -> str:
    """`get_weather(city,date?)`: all that a short prompt can afford to say about a tool."""
    parameters = tool["parameters"]
    names = (name if name in parameters["required"] else f"{name}?" for name in parameters["properties"])
    return f"{tool['name']}({','.join(names)})"


def call_text(name: str, arguments: Mapping[str, Any]) -> str:
    """The reference form of a call."""
    return json.dumps({"name": name, "arguments": dict(arguments)}, ensure_ascii=False)


def fields_of(template: str) -> list[str]:
    """Slots that a request template fills, in order of appearance."""
    return [field for _, field, _, _ in string.Formatter().parse(template) if field]


def _fill(name: str, template: str, split: Split, rng: random.Random) -> dict[str, Value]:
    """Values for one template, no two alike, in the order of the tool's schema."""
    kinds = data_file("requests.json")[name]["slots"]
    wanted = set(fields_of(template))
    arguments: dict[str, Value] = {}
    for slot in tools()[name]["parameters"]["properties"]:
        if slot in wanted:
            value = draw(kinds[slot], split, rng)
            while value in arguments.values():
                value = draw(kinds[slot], split, rng)
            arguments[slot] = value
    return arguments


def _sample(split: Split, rng: random.Random, identifier: str) -> Sample:
    catalogue = tools()
    name = rng.choice(list(catalogue))
    template = rng.choice(data_file("requests.json")[name]["requests"])
    arguments = _fill(name, template, split, rng)
    others = rng.sample([other for other in catalogue if other != name], rng.randint(*OFFERED) - 1)
    offered = rng.sample([name, *others], len(others) + 1)
    signatures = " ".join(signature(catalogue[tool]) for tool in offered)
    return Sample(
        id=identifier,
        prompt=f"Tools: {signatures}\nRequest: {template.format(**arguments)}\nJSON:",
        target=call_text(name, arguments),
        stratum=name,
        meta={"tools": {tool: catalogue[tool]["parameters"] for tool in offered}},
    )


def generate(request: SampleRequest) -> Iterator[Sample]:
    """Samples of one split. A finite stream never repeats itself; the train split is endless when `n` is None."""
    rng = random.Random(f"tools/{request.split}/{request.seed}")
    if request.n is None and request.split is Split.TRAIN:
        for index in itertools.count():
            yield _sample(request.split, rng, f"tools-train-{index}")
    seen: set[str] = set()
    while len(seen) < (POOL if request.n is None else request.n):
        sample = _sample(request.split, rng, f"tools-{request.split}-{len(seen)}")
        if sample.digest not in seen:
            seen.add(sample.digest)
            yield sample
