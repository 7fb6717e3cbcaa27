"""How well the router tells the packs apart, what it leaves alone, and what one decision costs.

    python benchmarks/router.py [--buckets 1024] [--width 16] [--seed 7] [--without math] [--json FILE]

Weights from the packs' TRAIN split, floors from PROFILE, every figure from VERIFY; foreign texts of kinds that the negatives
have none of (router_texts.yaml beside this file, this repository's licence, what a seed makes, and the prompts of each pack
that is left out). Goals: 0.98 right, 0.95 of foreign texts left alone, 1000 microseconds for a prompt of 6000 characters on
one thread. Prompts of left-out packs and paraphrases (router_paraphrases.yaml) are reported, not part of the goals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
import yaml
from rich.console import Console

from nexus_core.distill.routing import Prompts, RouterSettings, RoutingPrompts, routing_prompts, train_router
from nexus_core.distill.routing_report import RouterReport
from nexus_core.distill.routing_texts import foreign_texts
from nexus_core.stats import binomial_interval
from nexus_core.student.arch import RouterArch
from nexus_core.student.router import Judgement, SparseIntentRouter

HERE = Path(__file__).parent
PACKS = ("reasoning", "math", "code", "tools", "long_context")
RIGHT, ALONE, MICROSECONDS = 0.98, 0.95, 1000.0


def foreign(seed: int) -> dict[str, list[str]]:
    """Texts by kind."""
    licence = (HERE.parent / "LICENSE").read_text(encoding="utf-8")
    pieces = [licence, *licence.split("\n\n"), *(licence[i : i + 120] for i in range(0, len(licence), 120))]
    written = yaml.safe_load((HERE / "router_texts.yaml").read_text(encoding="utf-8"))
    written["prose"].append("\n\n".join(written["prose"]))
    return {"licence": [text for text in pieces if text.strip()], **written, **foreign_texts(50, seed)}


def long_prompt(prompts: Sequence[str]) -> str:
    return " ".join(prompts)[:6000]


def microseconds(router: SparseIntentRouter, prompt: str, runs: int = 500) -> list[float]:
    router.route(prompt)
    times = []
    for _ in range(runs):
        started = time.perf_counter()
        router.route(prompt)
        times.append(1e6 * (time.perf_counter() - started))
    return times


@torch.no_grad()
def by_check(router: SparseIntentRouter, texts: Sequence[str]) -> tuple[int, int, int]:
    """How many texts the heads alone, the density alone, and both would take for an adapter's."""
    seen = router(router.features(texts))
    always = torch.full_like(seen.logits, torch.inf)
    heads, density = Judgement(seen.logits, always), Judgement(always, seen.density)
    one, two, both = (int(router.accepted(judged).any(dim=1).sum()) for judged in (heads, density, seen))
    return one, two, both


def outside(router: SparseIntentRouter, known: Prompts, seed: int) -> dict[str, tuple[int, int]]:
    """What happens at the border: the tasks of packs without an adapter, and known tasks in words that no pack uses."""
    rest = [name for name in PACKS if name not in known]
    counts = {}
    for name, texts in routing_prompts(rest, RouterSettings(train_prompts=1), seed).verify.items():
        counts[f"prompts of {name}, which has no adapter, left alone"] = (chosen(router, texts).count(""), len(texts))
    phrased = yaml.safe_load((HERE / "router_paraphrases.yaml").read_text(encoding="utf-8"))
    pairs = [(name, one) for name in known for one in chosen(router, phrased[name])]
    counts["paraphrases sent to their adapter"] = (sum(name == one for name, one in pairs), len(pairs))
    counts["paraphrases left alone"] = (sum(not one for _, one in pairs), len(pairs))
    return counts


def chosen(router: SparseIntentRouter, texts: Sequence[str]) -> list[str]:
    return [route.adapters[0] if route.adapters else "" for route in router.routes(texts)]


def verdict(label: str, value: float, goal: float, met: bool) -> str:
    return f"{label}: {value:.4g}, goal {goal:g}: {'met' if met else 'MISSED'}"


def show(
    console: Console, router: SparseIntentRouter, report: RouterReport, prompts: RoutingPrompts, seed: int
) -> None:
    console.print(report.table())
    texts = [text for some in prompts.foreign.values() for text in some]
    alone = sum(count for count, _ in report.foreign.values())
    low, high = binomial_interval(alone, len(texts))
    long = microseconds(router, long_prompt(prompts.verify[router.arch.classes[-1]]))
    print(f"numbers in the router {report.parameters}, trained in {report.seconds:.1f} s")
    print(f"foreign texts left alone {alone} of {len(texts)} ({low:.3f} to {high:.3f})")
    heads, density, both = by_check(router, texts)
    print(f"foreign texts taken by the heads alone {heads}, by the density alone {density}, by both together {both}")
    print(f"calibration error {report.calibration_error:.4f}, temperature {float(router.temperature):.2f}")
    print(f"one prompt {report.microseconds:.0f} us (99 %: {report.microseconds_p99:.0f} us)")
    print(f"6000 characters {statistics.median(long):.0f} us (99 %: {sorted(long)[int(0.99 * len(long))]:.0f} us)")
    for kind, (count, of) in outside(router, prompts.verify, seed).items():
        print(f"{kind}: {count} of {of}")
    print(verdict("right", report.accuracy, RIGHT, report.accuracy >= RIGHT))
    print(verdict("left alone, mean over kinds", report.abstained, ALONE, report.abstained >= ALONE))
    print(verdict("least kind", worst := min(a / of for a, of in report.foreign.values()), ALONE, worst >= ALONE))
    median = statistics.median(long)
    print(verdict("microseconds", median, MICROSECONDS, median <= MICROSECONDS))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--buckets", type=int, default=1024)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--without", nargs="*", default=[], choices=PACKS, help="packs to leave out")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    classes = tuple(name for name in PACKS if name not in options.without)
    settings = RouterSettings()
    prompts = replace(routing_prompts(classes, settings, options.seed), foreign=foreign(options.seed))
    arch = RouterArch(classes, options.buckets, options.width, 1)
    router, report = train_router(arch, prompts, settings=settings, seed=options.seed)
    show(Console(width=110), router, report, prompts, options.seed)
    if options.json:
        options.json.write_text(json.dumps(asdict(report), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
