"""How fast a distilled student answers, beside its teachers: `python benchmarks/student_speed.py runs/default`.

Each teacher answers prompts of its own capability, and the student answers the same prompts with that adapter; one thread,
CPU seconds, median of the rounds. Tokens differ between tokenizers: characters per second stand beside tokens per second.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from nexus_core.cli.context import load_teacher, open_plugins, open_registry
from nexus_core.evaluation import draw
from nexus_core.student.answer import StudentAnswerer
from nexus_core.student.files import read_student
from nexus_core.types import GenerateOptions, Sample, SampleRequest, Split

Speed = tuple[float, float]  # tokens and characters per CPU second


def speed(answerer: object, samples: Sequence[Sample], options: GenerateOptions, rounds: int) -> list[Speed]:
    """One measurement per round, after one that warms up."""
    generate: Callable[..., list[list[int]]] = answerer.generate_tokens  # type: ignore[attr-defined]
    found = []
    for _ in range(rounds + 1):
        tokens = characters = 0
        started = time.process_time()
        for start in range(0, len(samples), options.batch_size):
            answers = generate(samples[start : start + options.batch_size], options)
            tokens += sum(map(len, answers))
            characters += sum(map(len, answerer.decode_tokens(answers, options)))  # type: ignore[attr-defined]
        seconds = time.process_time() - started
        found.append((tokens / seconds, characters / seconds))
    return found[1:]


def main() -> None:
    """Print one line per capability and batch size, and the ratio to the mean teacher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    registry, plugins, student = open_registry(), open_plugins(None), read_student(args.run / "student")
    for batch in (1, 32):
        sums: dict[str, list[Speed]] = {"teacher": [], "student": []}
        for adapter in student.arch.adapters:
            metric = plugins.capability_metric(adapter.capability)
            samples = draw(metric, SampleRequest(Split.VERIFY, args.samples if batch > 1 else args.samples // 4))
            samples = sorted(samples, key=lambda sample: len(sample.prompt))
            options = replace(metric.options, batch_size=batch)
            answerers = {
                "teacher": load_teacher(plugins, registry.teacher(adapter.teacher)),
                "student": StudentAnswerer(student.model, student.tokenizer, adapter.capability),
            }
            for who, answerer in answerers.items():
                rounds = speed(answerer, samples, options, args.rounds)
                tokens, characters = (statistics.median(column) for column in zip(*rounds, strict=True))
                low, high = min(t for t, _ in rounds), max(t for t, _ in rounds)
                sums[who].append((tokens, characters))
                print(
                    f"batch {batch:2} {adapter.capability:14} {who}: {tokens:7.0f} tokens/s ({low:.0f} to {high:.0f}), "
                    f"{characters:7.0f} characters/s",
                    flush=True,
                )
        for i, unit in enumerate(("tokens", "characters")):
            teacher, own = (statistics.mean(pair[i] for pair in sums[who]) for who in ("teacher", "student"))
            print(
                f"batch {batch:2} mean {unit}/s: teachers {teacher:.0f}, student {own:.0f}, ratio {own / teacher:.2f}"
            )


if __name__ == "__main__":
    main()
