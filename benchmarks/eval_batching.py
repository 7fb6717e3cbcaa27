"""Batched generation beside one-by-one generation, on a zoo teacher, in one run.

    python benchmarks/eval_batching.py [--teacher zoo-reasoning] [--samples 64] [--rounds 3]

Prints tokens per second of both (median, minimum, maximum over rounds) and their ratio pair by pair.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from dataclasses import replace

from nexus_core.cli.context import open_plugins, open_registry
from nexus_core.registry import resolve_path
from nexus_core.types import GenerateOptions, ModelSource, Sample, SampleRequest, Split, Teacher


def tokens_per_second(teacher: Teacher, samples: list[Sample], options: GenerateOptions) -> float:
    started = time.perf_counter()
    answers = teacher.generate(samples, options)
    seconds = time.perf_counter() - started
    return sum(len(teacher.processor(answer)["input_ids"]) for answer in answers) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", default="zoo-reasoning")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    row = open_registry().teacher(arguments.teacher)
    presence = resolve_path(row)
    if presence.path is None:
        raise SystemExit(f"{row.id} is absent: {presence.reason}")
    plugins = open_plugins()
    teacher = plugins.load_teacher(ModelSource(presence.path, row.id))
    metric = plugins.capability_metric(row.capabilities[0])
    request = SampleRequest(Split.PROFILE, arguments.samples)
    samples = list(itertools.islice(metric.samples(request), arguments.samples))
    teacher.generate(samples[:2], metric.options)  # warm-up
    batched, single = [], []
    for _ in range(arguments.rounds):
        batched.append(tokens_per_second(teacher, samples, replace(metric.options, batch_size=64)))
        single.append(tokens_per_second(teacher, samples, replace(metric.options, batch_size=1)))
    for name, values in {"batched": batched, "one by one": single}.items():
        print(f"{name:12} {statistics.median(values):8.0f} tokens/s  (min {min(values):.0f}, max {max(values):.0f})")
    ratios = [a / b for a, b in zip(batched, single, strict=True)]
    print(f"{'ratio':12} {statistics.median(ratios):8.1f} x         (min {min(ratios):.1f}, max {max(ratios):.1f})")


if __name__ == "__main__":
    main()
