"""Tokens per second of a tiny student: its own decoding beside transformers' `generate` on the same weights, in one run.

    python benchmarks/student_decode.py [--runs 5] [--tokens 64]

The student is the zoo's backbone with an adapter (two bottlenecks, low-rank deltas on every projection). Nothing ends early:
both write the same tokens, and the benchmark fails if they do not. CPU time of one thread. Budget: 1.6 times at batch 1.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from nexus_core.hf.quiet import quiet
from nexus_core.student import AdapterArch, NexusForCausalLM
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import RouterArch, Site, StudentArch
from nexus_core.student.decode import greedy

BUDGET = 1.6
BACKBONE = Path(__file__).parents[1] / "plugins/teachers/zoo/src/nexus_teacher_zoo/weights/backbone"
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PROMPT = 30


def tiny_student() -> NexusForCausalLM:
    """The zoo's backbone with one adapter that is not as it was born."""
    with quiet():
        backbone = LlamaForCausalLM.from_pretrained(BACKBONE, dtype=torch.float32)
    last = backbone.config.num_hidden_layers - 1
    adapter = AdapterArch("reasoning", "text", "", (Site(0, 24, ""), Site(last, 24, "")), 32, PROJECTIONS)
    arch = StudentArch(1, "tiny", 42, {}, str(BACKBONE), (adapter,), (), RouterArch((), 1, 1, 1), ())
    student = NexusForCausalLM.from_backbone(
        backbone, arch, lambda plan: AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)
    )
    torch.manual_seed(42)
    with torch.no_grad():
        for parameter in student.adapters.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    student.generation_config.eos_token_id = None
    return student


def seconds(call: Callable[[], list[list[int]]]) -> tuple[float, list[list[int]]]:
    """CPU seconds of this thread, which others on the machine lengthen less than they do the clock's."""
    started = time.thread_time()
    rows = call()
    return time.thread_time() - started, rows


def measure(student: NexusForCausalLM, rows: int, tokens: int, runs: int) -> tuple[float, float]:
    """Median tokens per second of `generate` and of `greedy`, taken in turns."""
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(3, student.config.vocab_size, (rows, PROMPT), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(rows):
        mask[row, : row % (PROMPT // 2)] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    settings = {"max_new_tokens": tokens, "do_sample": False, "pad_token_id": 0}
    times: dict[str, list[float]] = {"generate": [], "greedy": []}
    for _ in range(runs):
        took, theirs = seconds(lambda: student.generate(**batch, **settings)[:, PROMPT:].tolist())
        times["generate"].append(took)
        took, ours = seconds(lambda: greedy(student, batch, tokens, set()))
        times["greedy"].append(took)
        if ours != theirs:
            sys.exit("the two write different tokens")
    generate, short = (rows * tokens / statistics.median(times[name]) for name in ("generate", "greedy"))
    return generate, short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    student = tiny_student()
    config = student.config
    print(
        f"{config.num_hidden_layers} blocks of {config.hidden_size}, {student.num_parameters():,} parameters, one thread"
    )
    ratios = {}
    for rows in (1, 32):
        for capability in (None, "reasoning"):
            with quiet(), student.using(capability):
                generate, short = measure(student, rows, options.tokens, options.runs)
            ratios[rows, capability] = short / generate
            label = f"batch {rows}, {capability or 'plain'}"
            print(f"{label:20}generate {generate:8,.0f} tokens/s   greedy {short:8,.0f}   {short / generate:.2f} times")
    worst = min(ratio for (rows, _), ratio in ratios.items() if rows == 1)
    print(f"batch 1: {'within' if worst >= BUDGET else 'OUTSIDE'} the budget of {BUDGET:g} times generate")


if __name__ == "__main__":
    main()
