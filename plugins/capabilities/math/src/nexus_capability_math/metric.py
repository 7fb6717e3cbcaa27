"""The metric of `math`: an exact final number, as GSM8K is scored."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
FORMAT = re.compile(r"####\s*\$?-?\d[\d,.]*\s*$")


class Math(CapabilityMetric):
    """Exact final number."""

    name = "math"
    metric = "exact_answer"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=192, batch_size=64)

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        """Generated problems, or the user's data, or a named benchmark."""
        if request.data is None:
            from nexus_capability_math.generate import generate

            return generate(request.split, request.n, request.seed)
        from nexus_capability_math.bind import bound

        return bound(request)

    def score(self, sample: Sample, output: Any) -> float:
        """1 when the final number equals the reference, else 0."""
        return float(extract(str(output)) == normal(str(sample.meta["answer"])))

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
    """Whether an output ends with `#### number`, as the format asks."""
    return FORMAT.search(output) is not None


def extract(output: str) -> str | None:
    """The final number: the first one after the last `####`, else the last one of the text."""
    marked = "####" in output
    numbers = NUMBER.findall(output.rpartition("####")[2] if marked else output)
    return normal(numbers[0 if marked else -1]) if numbers else None


def normal(answer: str) -> str:
    """One spelling per number: `$1,200.0` is `1200`."""
    whole, _, fraction = answer.replace(",", "").strip().lstrip("$").partition(".")
    fraction = fraction.rstrip("0")
    return f"{whole}.{fraction}" if fraction else whole
