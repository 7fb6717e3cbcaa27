"""What the training loop costs beyond its arithmetic: tokens per second against a bare PyTorch loop, in one run.

    python benchmarks/distill_loop.py [--steps 40] [--rounds 3] [--rows 32] [--precision auto]

The student has the shape of the tiny preset's with random weights, the rows are random with the lengths of a text
capability (what is learnt does not matter here). `loop` is `nexus_core.distill.trainer.train` with everything on: batches
collated from rows, journal and TensorBoard each step, recovery, checkpoints, hard checks. Its peers take turns with it:

    bare     the same student, objective, optimizer and clipping in eight lines, batches collated beforehand
    plain    the same with transformers' own loss: cross-entropy alone, logits at every position

The budgets: loop at least 0.9 x bare in tokens per second; batches and journal together under 10 % of a step.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nexus_core.distill.batches import Batch, Batches, collate
from nexus_core.distill.job import Job
from nexus_core.distill.journal import Journal
from nexus_core.distill.objective import DistillObjective, Moment, autocast
from nexus_core.distill.optim import build_optimizer, select_trained
from nexus_core.distill.settings import PhaseSettings, TeachSettings, read_teaching
from nexus_core.distill.spaces import AnchorSpace
from nexus_core.distill.targets import AnchorTarget, SparseTargets, TrainingRow
from nexus_core.distill.trainer import train
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch
from nexus_core.student.model import NexusForCausalLM

RATIO, OVERHEAD = 0.9, 0.1
VOCABULARY, TOP, RANK = 1280, 16, 32
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
BACKBONE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
SITES = (Site(1, RANK, "teacher.1"), Site(2, RANK, "teacher.2"))


def new_student() -> NexusForCausalLM:
    adapter = AdapterArch("task", "text", "teacher", SITES, 48, PROJECTIONS)
    router = RouterArch(("task",), 8, 4, 1)
    arch = StudentArch(1, "tiny", 42, BACKBONE, "random", (adapter,), (), router, ())
    build = lambda plan: AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)  # noqa: E731
    return NexusForCausalLM.from_backbone(None, arch, build)


def new_rows(n: int, seed: int = 1) -> list[TrainingRow]:
    rng = np.random.default_rng(seed)
    return [new_row(rng) for _ in range(n)]


def new_row(rng: np.random.Generator) -> TrainingRow:
    prompt = rng.integers(2, VOCABULARY, rng.integers(30, 90)).astype(np.int32)
    answer = rng.integers(2, VOCABULARY, rng.integers(10, 50)).astype(np.int32)
    shape = (len(answer), TOP)
    log_probs = np.log(rng.dirichlet(np.ones(TOP + 1), len(answer))).astype(np.float32)
    known = np.ones(len(answer), np.bool_)
    ids = np.argsort(rng.random((len(answer), VOCABULARY)), axis=1)[:, :TOP].astype(np.int32)
    kl = SparseTargets(ids.reshape(shape), log_probs[:, :TOP], log_probs[:, TOP], known)
    anchors = {s.block: AnchorTarget(rng.normal(size=(len(answer), RANK)).astype(np.float32), known) for s in SITES}
    return TrainingRow(str(rng.integers(1 << 60)), prompt, answer, kl, kl.entropy(), anchors)


def objective(settings: TeachSettings) -> DistillObjective:
    flat = [
        AnchorSpace(s.block, s.teacher_block, tuple(range(RANK)), np.ones(RANK), RANK, np.zeros(RANK), 0.1)
        for s in SITES
    ]
    return DistillObjective(settings, flat)


def run_loop(settings: TeachSettings, rows: Sequence[TrainingRow], size: int) -> float:
    with tempfile.TemporaryDirectory() as folder:
        job = Job(
            new_student(),
            "task",
            Batches(rows, seed=42, batch_size=size),
            objective(settings),
            settings,
            Path(folder) / "checkpoints",
            Path(folder) / "journal",
            held=[collate(rows[:size])],
        )
        outcome = train(job)
        return outcome.tokens / outcome.seconds


def run_bare(settings: TeachSettings, batches: Sequence[Batch], loss_of: Callable[[Any, Batch, int], Any]) -> float:
    student, phase = new_student(), settings.phases[0]
    student.choose("task")
    student.train()
    trained = select_trained(student, ["task"], phase)
    optimizer = build_optimizer(trained, phase, settings.optimizer)
    started = time.perf_counter()
    for step, batch in enumerate(batches):
        with autocast("cpu", settings.precision):
            loss = loss_of(student, batch, step)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(trained.all.values()), phase.clip)
        optimizer.step()
    return sum(batch.tokens for batch in batches) / (time.perf_counter() - started)


def plain_loss(student: Any, batch: Batch, step: int) -> Any:
    """What transformers' own loss computes: cross-entropy alone, logits at every position."""
    labels = torch.full_like(batch.input_ids, -100)
    labels[batch.answer] = batch.labels
    ids, mask = batch.input_ids, batch.attention_mask
    return student(input_ids=ids, attention_mask=mask, labels=labels, shift_labels=labels, use_cache=False).loss


def seconds_of(work: Callable[[], Any], times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        work()
    return (time.perf_counter() - started) / times


def overheads(settings: TeachSettings, rows: Sequence[TrainingRow], size: int) -> dict[str, float]:
    """Seconds per step of collating a batch, of a line of the journal, and of a checkpoint spread over its steps."""
    batches, positions = Batches(rows, seed=42, batch_size=size), iter(range(10**6))
    values = {f"term/{i}": 1.0 for i in range(16)}
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Path(folder))
        logged = seconds_of(lambda: journal.step(next(positions), values), 200)
        flushed = seconds_of(journal.marks, 5) / settings.journal.checkpoint_every
        journal.close()
    return {"batches": seconds_of(lambda: batches.at(next(positions)), 50), "journal": logged + flushed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    tiny = read_teaching("tiny")
    phase = PhaseSettings("adapters", False, args.steps, 1e-3, 0.0, 0, 0, 1.0)
    settings = replace(tiny, phases=(phase,), precision=args.precision, accumulate=1)
    rows = new_rows(args.rows * 16)
    source = Batches(rows, seed=42, batch_size=args.rows)
    batches = [source.at(position) for position in range(args.steps)]
    loss_of = objective(settings)
    runs: dict[str, Callable[[], float]] = {
        "loop": lambda: run_loop(settings, rows, args.rows),
        "bare": lambda: run_bare(settings, batches, lambda student, b, step: loss_of(student, b, Moment(step)).total),
        "plain": lambda: run_bare(settings, batches, plain_loss),
    }
    run_loop(replace(settings, phases=(replace(phase, steps=3),)), rows, args.rows)  # what a process does once
    found: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(args.rounds):
        for name, run in runs.items():
            found[name].append(run())
    report(found, overheads(settings, rows, args.rows), statistics.mean(batch.tokens for batch in batches))


def report(found: dict[str, list[float]], costs: dict[str, float], tokens: float) -> None:
    best = {name: statistics.median(values) for name, values in found.items()}
    step = tokens / best["loop"]
    for name, value in best.items():
        print(f"{name:6} {value:8.0f} tokens/s   (rounds: {', '.join(f'{v:.0f}' for v in found[name])})")
    for name, seconds in costs.items():
        print(f"{name:8} {1000 * seconds:6.2f} ms of a step's {1000 * step:.0f} ms: {seconds / step:.1%}")
    ratios = sorted(loop / bare for loop, bare in zip(found["loop"], found["bare"], strict=True))
    ratio, share = statistics.median(ratios), sum(costs.values()) / step
    print(f"loop / bare {ratio:.3f} (budget {RATIO}: {'ok' if ratio >= RATIO else 'MISSED'})")
    print(
        f"batches and journal {share:.1%} of a step (budget {OVERHEAD:.0%}: {'ok' if share < OVERHEAD else 'MISSED'})"
    )


if __name__ == "__main__":
    main()
