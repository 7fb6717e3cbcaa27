"""The capability `templatename`: samples and score. Replace the task (spell a word backwards) with your own."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Mapping, Sequence

from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

SYLLABLES = ["ba", "ce", "di", "fo", "gu", "ka", "le", "mi", "no", "pu", "ra", "se", "ti", "vo", "zu"]
# Two words of ten go to each of the held-out splits. A word's own hash decides, so that no word is ever in two splits.
SPLIT_OF_TENTH = [Split.PROFILE] * 2 + [Split.VERIFY] * 2 + [Split.TRAIN] * 6


def split_of(word: str) -> Split:
    return SPLIT_OF_TENTH[hashlib.sha256(word.encode()).digest()[0] % 10]


class Templatename(CapabilityMetric):
    name = "templatename"
    metric = "exact_match"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=16)

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        rng = random.Random(f"{request.seed}-{request.split}")
        seen: set[str] = set()
        while request.n is None or len(seen) < request.n:
            word = "".join(rng.choices(SYLLABLES, k=rng.randint(2, 5)))
            if split_of(word) is request.split and word not in seen:
                seen.add(word)
                yield Sample(
                    f"{request.split}-{len(seen)}", f"Spell backwards: {word}", word[::-1], stratum=str(len(word))
                )

    def score(self, sample: Sample, output: str) -> float:
        return float(output.strip() == sample.target)

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[str]]:
        samples = list(self.samples(request))
        rng = random.Random(request.seed)
        return {"random": ["".join(rng.sample(s.target, len(s.target))) for s in samples]}
