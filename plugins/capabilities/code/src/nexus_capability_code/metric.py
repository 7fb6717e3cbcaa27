"""The capability `code`: samples, and pass@1 of one answer each."""

from __future__ import annotations

import logging
import random
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any

from nexus_capability_code.generator import generate
from nexus_capability_code.sandbox import Call, Limits, Outcome, Program, Sandbox
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split

log = logging.getLogger(__name__)
BASELINE_SAMPLES = 2000  # training samples that the baselines may look at


class CodeMetric(CapabilityMetric):
    """pass@1: the share of answers whose function passes every hidden test, in the sandbox."""

    name = "code"
    metric = "pass@1"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=256, batch_size=64)

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()

    def samples(self, request: SampleRequest) -> Iterator[Sample]:
        if request.data is not None:
            from nexus_capability_code.bindings import bound_samples

            return bound_samples(request)
        return islice(generate(request.split, request.seed), request.n)

    def score(self, sample: Sample, output: Any) -> float:
        return self.score_all([sample], [output])[0]

    def score_all(self, samples: Sequence[Sample], outputs: Sequence[Any]) -> list[float]:
        outcomes = self.outcomes(samples, outputs)
        stopped = Counter(outcome.stopped for outcome in outcomes if outcome.stopped)
        if stopped:
            reasons = ", ".join(f"{reason} {count}" for reason, count in stopped.most_common())
            log.warning("the sandbox stopped %d of %d programs: %s", stopped.total(), len(outcomes), reasons)
        return [float(passed(sample, outcome)) for sample, outcome in zip(samples, outcomes, strict=True)]

    def outcomes(self, samples: Sequence[Sample], outputs: Sequence[Any]) -> list[Outcome]:
        """How each program ended, in order: what `score_all` judges, and what a report of refusals is made of."""
        with Sandbox(workers=_workers(len(samples)), limits=self.limits) as sandbox:
            return sandbox.each(partial(run, sandbox, s, o) for s, o in zip(samples, outputs, strict=True))

    def baselines(self, request: SampleRequest) -> Mapping[str, Sequence[Any]]:
        """`random`: some training function under the right name. `majority`: the commonest function of the sample's kind."""
        training = list(islice(generate(Split.TRAIN, request.seed), BASELINE_SAMPLES))
        common: dict[str, Counter[str]] = {}
        for sample in training:
            common.setdefault(sample.stratum, Counter())[_anonymous(sample.target)] += 1
        overall = Counter(_anonymous(sample.target) for sample in training)
        rng = random.Random(f"random:{request.seed}")
        asked = list(self.samples(request))
        return {
            "random": [rename(rng.choice(training).target, sample.meta["entry"]) for sample in asked],
            "majority": [
                rename(common.get(sample.stratum, overall).most_common(1)[0][0], sample.meta["entry"])
                for sample in asked
            ],
        }


def run(sandbox: Sandbox, sample: Sample, output: Any) -> Outcome:
    """One answer in the sandbox: calls whose values are compared outside, or a benchmark's own checking code."""
    meta = sample.meta
    program = Program(str(output), meta["entry"], meta.get("prompt", ""))
    if "check" in meta:
        return sandbox.check(program, meta["check"], meta["names"])
    return sandbox.run(program, [Call(meta["entry"], test["args"]) for test in meta["tests"]])


def passed(sample: Sample, outcome: Outcome) -> bool:
    """Whether every test passed. Values are compared here, in a process that the program never entered."""
    if "check" in sample.meta:
        return outcome.passed
    tests = sample.meta["tests"]
    return len(outcome.answers) == len(tests) and all(
        not answer.error and type(answer.value) is type(test["expect"]) and answer.value == test["expect"]
        for answer, test in zip(outcome.answers, tests, strict=True)
    )


def rename(code: str, entry: str) -> str:
    """The same function under another name."""
    return re.sub(r"^def \w+", f"def {entry}", code)


def _anonymous(code: str) -> str:
    """A function with its own and its first argument's name made the same for all; further arguments are ignored."""
    match = re.match(r"def \w+\((\w+)(?:, \w+)?\):", code)
    assert match, code
    body = re.sub(rf"\b{match[1]}\b", "a", code[match.end() :])
    return f"def f(a, *rest):{body}"


def _workers(n: int) -> int | None:
    return 1 if n < 4 else None
