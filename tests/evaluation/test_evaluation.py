"""The interval and the order of answers; the command line on a tiny model."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

from nexus_core.cli.main import cli
from nexus_core.errors import DataError
from nexus_core.evaluation import evaluate
from nexus_core.stats import score_interval as interval
from nexus_core.testing import tiny
from nexus_core.types import CapabilityMetric, Direction, GenerateOptions, Sample, SampleRequest, Split


class Echo(CapabilityMetric):
    """Repeat the prompt."""

    name = "echo"
    metric = "exact_match"
    direction = Direction.HIGHER
    options = GenerateOptions(batch_size=4)

    def __init__(self, n: int = 10) -> None:
        self.n = n

    def samples(self, request):
        rng = random.Random(request.seed)
        for i in range(self.n):
            text = "x" * rng.randint(1, 30) + str(i)
            yield Sample(str(i), text, text)

    def score(self, sample, output):
        return float(output == sample.target)


class Parrot:
    """Answers the first `right` samples it is asked for rightly, and remembers the sizes of its batches."""

    def __init__(self, right: int) -> None:
        self.right = right
        self.batches: list[int] = []

    def generate(self, samples, options):
        self.batches.append(len(samples))
        return [sample.prompt if int(sample.id) < self.right else "?" for sample in samples]


REQUEST = SampleRequest(Split.VERIFY, 10)


def test_answers_return_to_their_samples_whatever_the_batching():
    parrot = Parrot(right=7)
    seen = []
    row, answers = evaluate("p", parrot, Echo(), REQUEST, progress=lambda done, total: seen.append((done, total)))
    assert [sample.id for sample in answers.samples] == [str(i) for i in range(10)]
    assert answers.scores == [1.0] * 7 + [0.0] * 3
    assert (row.score, row.n, row.target, row.direction) == (0.7, 10, "p", "higher")
    assert parrot.batches == [4, 4, 2]
    assert seen == [(4, 10), (8, 10), (10, 10)]


def test_interval_is_that_of_resampling():
    samples = [Sample(str(i), str(i), "") for i in range(100)]
    low, high = interval(Echo(), samples, [1.0] * 60 + [0.0] * 40, seed=42)
    # the normal approximation at p = 0.6, n = 100 is 0.504 to 0.696
    assert low == pytest.approx(0.504, abs=0.015)
    assert high == pytest.approx(0.696, abs=0.015)
    assert interval(Echo(), samples, [1.0] * 60 + [0.0] * 40, seed=42) == (low, high)


@pytest.mark.parametrize("score", [0.0, 1.0])
def test_unanimous_scores_are_not_certainty(score):
    samples = [Sample(str(i), str(i), "") for i in range(20)]
    low, high = interval(Echo(), samples, [score] * 20, seed=42)
    assert high - low == pytest.approx(0.168, abs=0.001)  # Clopper-Pearson at 20 of 20
    assert score in (low, high)


def test_interval_of_a_metric_that_is_not_a_mean():
    class Worst(Echo):
        def aggregate(self, samples, scores):
            return min(scores)

    samples = [Sample(str(i), str(i), "") for i in range(50)]
    low, high = interval(Worst(), samples, [i / 50 for i in range(50)], seed=42)
    assert low == 0.0
    assert 0.0 < high < 0.2


def test_no_samples_is_an_error():
    with pytest.raises(DataError, match="no verify samples"):
        evaluate("p", Parrot(0), Echo(n=0), REQUEST)


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory):
    return tiny.save_causal_lm(tmp_path_factory.mktemp("tiny"))


def test_command_prints_one_json_line(tiny_model, tmp_path):
    outputs = tmp_path / "outputs.jsonl"
    arguments = [
        "eval",
        str(tiny_model),
        "--capability",
        "reasoning",
        "--samples",
        "2",
        "--json",
        "--outputs",
        str(outputs),
    ]
    result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    (line,) = result.stdout.splitlines()
    row = json.loads(line)
    assert list(row) == ["target", "capability", "data", "metric", "direction", "score", "n", "ci95", "seconds"]
    assert (row["capability"], row["n"], row["score"], row["direction"]) == ("reasoning", 2, 0.0, "higher")
    assert row["ci95"][0] == 0.0
    assert row["ci95"][1] > 0.5
    assert row["seconds"] > 0
    written = [json.loads(text) for text in outputs.read_text().splitlines()]
    assert len(written) == 2
    assert {"prompt", "reference", "output", "score"} <= set(written[0])


def test_long_prompts_are_counted_and_said(tiny_model):
    result = CliRunner().invoke(cli, ["eval", str(tiny_model), "--capability", "reasoning", "--samples", "2"])
    assert "2 of 2 prompts are longer than the context" in result.stderr
