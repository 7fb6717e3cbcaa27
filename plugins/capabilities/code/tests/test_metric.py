"""pass@1: the reference passes, anything else fails, memory does not help."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from nexus_capability_code.metric import CodeMetric, rename
from nexus_capability_code.plugin import capability_metric

from nexus_core.types import Direction, Sample, SampleRequest, Split

METRIC = CodeMetric()


def verify(n: int) -> list[Sample]:
    return list(METRIC.samples(SampleRequest(Split.VERIFY, n=n)))


def mean(samples: list[Sample], outputs: list[str]) -> float:
    return METRIC.aggregate(samples, METRIC.score_all(samples, outputs))


def test_plugin_answers_for_code_alone() -> None:
    metric = capability_metric("code")
    assert metric is not None and metric.direction is Direction.HIGHER and metric.metric == "pass@1"
    assert capability_metric("math") is None


def test_reference_passes_also_with_prose_and_fences_around_it() -> None:
    samples = verify(60)
    assert mean(samples, [s.target for s in samples]) == 1.0
    assert mean(samples, [f"Sure!\n```python\n{s.target}\n```\nThat is it." for s in samples]) == 1.0
    assert mean(samples, [f"Here you are:\n{s.target}\n\nIt works." for s in samples]) == 1.0


@pytest.mark.parametrize(
    "spoil",
    [
        lambda s: "",
        lambda s: "def other(x):\n    return 1",
        lambda s: s.target.replace(":\n", ":\n    return None\n", 1),
        lambda s: s.target[:-3],
        lambda s: s.target.replace("return ", "return None and "),
        lambda s: "import os\nos._exit(0)",
    ],
    ids=["empty", "another name", "returns None", "cut off", "changed", "exits"],
)
def test_wrong_programs_fail(spoil: Callable[[Sample], str]) -> None:
    samples = verify(40)
    outputs = [spoil(s) for s in samples]
    wrong = [i for i, s in enumerate(samples) if _differs(s, outputs[i])]
    assert len(wrong) >= 20
    scores = METRIC.score_all(samples, outputs)
    assert not any(scores[i] for i in wrong)


def _differs(sample: Sample, output: str) -> bool:
    """Whether the spoilt program truly answers differently, found without the sandbox under test."""
    if "_exit" in output:
        return True
    namespace: dict[str, object] = {}
    try:
        exec(output, namespace)
        function = namespace[sample.meta["entry"]]
        return any(function(*t["args"]) != t["expect"] for t in sample.meta["tests"])  # type: ignore[operator]
    except (SyntaxError, KeyError, NameError, TypeError, AttributeError):
        return True


def test_a_value_of_another_type_fails() -> None:
    sample = Sample("1", "f", "", meta={"entry": "f", "tests": [{"args": [3], "expect": [1, 2]}]})
    assert METRIC.score(sample, "def f(x):\n    return [1, 2]") == 1.0
    assert METRIC.score(sample, "def f(x):\n    return (1, 2)") == 0.0


def test_programs_that_misbehave_score_zero_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    samples = verify(5)
    outputs = [s.target for s in samples[:2]] + ["import os\nos._exit(3)"] * 2 + ["import ctypes\nctypes.string_at(0)"]
    assert METRIC.score_all(samples, outputs) == [1.0, 1.0, 0.0, 0.0, 0.0]
    assert "stopped 2 of 5 programs: exited by itself with status 3 2" in caplog.text


def test_baselines_are_near_zero_and_one_per_sample() -> None:
    request = SampleRequest(Split.VERIFY, n=100)
    samples = verify(100)
    baselines = METRIC.baselines(request)
    assert set(baselines) == {"random", "majority"}
    for outputs in baselines.values():
        assert len(outputs) == 100
        assert mean(samples, list(outputs)) <= 0.03


@pytest.mark.slow
def test_the_nearest_training_answer_does_not_pass() -> None:
    """Memory, made as strong as can be: the nearest prompt's function is even given the right name."""
    samples = verify(100)
    train = list(METRIC.samples(SampleRequest(Split.TRAIN, n=1500)))
    words = [set(re.findall(r"\w+|\W", s.prompt)) for s in train]
    outputs = []
    for sample in samples:
        asked = set(re.findall(r"\w+|\W", sample.prompt))
        best = max(range(len(train)), key=lambda i: len(asked & words[i]) / len(asked | words[i]))
        outputs.append(rename(train[best].target, sample.meta["entry"]))
    assert mean(samples, outputs) <= 0.08
