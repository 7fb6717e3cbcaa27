"""The metric `exact_answer`, its value by length, and the baselines that need no model."""

from __future__ import annotations

import random
import re
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from nexus_capability_long_context import bindings
from nexus_capability_long_context.generator import DRILL, code, generate
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

MEMORY = 1000  # train samples that `majority` and `nearest` remember
MAX_CHARACTERS = 20_000  # an answer is one line: more than this is not read


@dataclass(frozen=True, slots=True)
class StratumScore:
    """Mean score of the samples of one length."""

    score: float
    n: int


def by_stratum(samples: Sequence[Sample], scores: Sequence[float]) -> dict[str, StratumScore]:
    """Score by length (or flavour), shortest first."""
    groups: dict[str, list[float]] = defaultdict(list)
    for sample, score in zip(samples, scores, strict=True):
        groups[sample.stratum].append(score)
    ordered = sorted(groups, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))
    return {name: StratumScore(sum(groups[name]) / len(groups[name]), len(groups[name])) for name in ordered}


def normalised(text: str) -> str:
    """Without case, punctuation, articles and doubled blanks, as SQuAD compares answers."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(word for word in bare.split() if word not in ("a", "an", "the"))


def answers_in(output: str) -> set[str]:
    """What an output may be read as: its first line as it is, or, where that is one sentence, what follows its ` is `."""
    line = next((line for line in output[:MAX_CHARACTERS].splitlines() if line.strip()), "")
    readings = {normalised(line)}
    if line.count(" is ") == 1 and ". " not in line.strip():
        readings.add(normalised(line.partition(" is ")[2]))
    return readings


class LongContext(CapabilityMetric):
    """A long input, a question at its end, one short answer."""

    name = "long_context"
    metric = "exact_answer"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=32)
    drill = DRILL

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        return generate(request) if request.data in (None, DRILL) else bindings.bind(request)

    def score(self, sample: Sample, output: Any) -> float:
        """1 if the output's first line is the answer, or a sentence that ends in `is ANSWER`, else 0."""
        if not isinstance(output, str):
            return 0.0
        return float(bool(answers_in(output) & {normalised(answer) for answer in sample.meta["answers"]}))

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[str]]:
        """`random`: any code. `guess`: one of the codes in the input. `majority`: the commonest answer.

        `nearest`: the answer to the train prompt whose question is most alike, which is what memory is worth.
        """
        samples = list(self.samples(request))
        known = list(islice(self.samples(replace(request, split=Split.TRAIN, n=MEMORY)), MEMORY))
        rng = random.Random(f"long_context/random/{request.seed}")
        outputs: dict[str, Sequence[str]] = {
            "random": [code(rng) for _ in samples],
            "guess": [_guess(sample, rng) for sample in samples],
        }
        if known:  # a small dataset may have no train row at all
            commonest = Counter(sample.meta["answers"][0] for sample in known).most_common(1)[0][0]
            outputs |= {"majority": [commonest] * len(samples), "nearest": _nearest(samples, known)}
        return outputs


def _guess(sample: Sample, rng: random.Random) -> str:
    stated = re.findall(r" is (\w+)\.", sample.prompt) or sample.prompt.split()
    return str(rng.choice(stated))


def _nearest(samples: Sequence[Sample], known: Sequence[Sample]) -> list[str]:
    memory = [(_question_words(sample), sample.meta["answers"][0]) for sample in known]
    answers = []
    for sample in samples:
        asked = _question_words(sample)
        answers.append(max(memory, key=lambda entry: len(asked & entry[0]) / len(asked | entry[0]))[1])
    return answers


def _question_words(sample: Sample) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", sample.prompt[-200:]))
