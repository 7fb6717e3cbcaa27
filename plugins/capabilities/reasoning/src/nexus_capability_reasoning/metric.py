"""The metric of `reasoning`: an exact answer, whatever the steps."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
LETTER = re.compile(r"(?:####|answer(?: is)?:?)\s*\(?([A-J])\b", re.IGNORECASE)
FORMAT = re.compile(r"####\s*\S[^\n]*\s*$")


class Reasoning(CapabilityMetric):
    """Exact answer to a problem that takes several steps."""

    name = "reasoning"
    metric = "exact_answer"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=96, batch_size=64)

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        """Generated word problems, or the user's data, or a named benchmark."""
        if request.data is None:
            from nexus_capability_reasoning.generate import generate

            return generate(request.split, request.n, request.seed)
        from nexus_capability_reasoning.bind import bound

        return bound(request)

    def score(self, sample: Sample, output: Any) -> float:
        """1 when the final answer equals the reference, else 0."""
        expected = str(sample.meta["answer"])
        return float(extract(str(output), str(sample.meta["kind"])) == normal(expected, str(sample.meta["kind"])))

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[str]]:
        """`random`: the answer of a randomly drawn reference sample; `majority`: the most frequent reference answer."""
        asked = list(self.samples(request))
        split = Split.TRAIN if request.data is None else request.split
        known = [s.meta["answer"] for s in self.samples(SampleRequest(split, 2000, request.seed, request.data))]
        rng = random.Random(f"baseline/{request.seed}")
        common = Counter(known).most_common(1)[0][0] if known else ""
        return {
            "random": [f"#### {rng.choice(known)}" for _ in asked],
            "majority": [f"#### {common}" for _ in asked],
        }


def well_formed(output: str) -> bool:
    """Whether an output ends with `#### answer`, as the format asks."""
    return FORMAT.search(output) is not None


def extract(output: str, kind: str) -> str | None:
    """The final answer: what follows the last `####`, else the last number or the letter that the text settles on."""
    if kind == "choice":
        letters = LETTER.findall(output) or re.findall(r"\b([A-J])\b", output)
        return letters[-1].upper() if letters else None
    tail = output.rpartition("####")[2] if "####" in output else None
    if kind == "text":
        return normal(tail if tail is not None else output, kind)
    numbers = NUMBER.findall(tail)[:1] if tail is not None else NUMBER.findall(output)[-1:]
    return normal(numbers[0], kind) if numbers else None


def normal(answer: str, kind: str) -> str:
    """One spelling per answer: `1,200.0` is `1200`; text is compared without case and outer space."""
    if kind == "choice":
        return answer.strip().upper()
    if kind == "text":
        return " ".join(answer.lower().split()).rstrip(".")
    plain = answer.replace(",", "").strip().lstrip("$")
    whole, _, fraction = plain.partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
