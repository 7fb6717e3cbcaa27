"""What a profile costs, and what it saves not to generate answers that cannot have changed.

    python benchmarks/profiling.py [--teacher zoo-reasoning] [--samples 50 200] [--rounds 1] [--components 4]

Every profile is a process of its own: wall and CPU seconds of `Profiler.run`, the peak of resident memory beyond that of
the loaded teacher (the kernel's own high-water mark, so Linux only), and the share of the answers under interventions
that one forward pass decided. The budgets are 90 s for 200 samples and 300 MB, whatever the number of samples.

The named peer is generating every answer with the same hooks, on the same samples and components, in one process, turn
by turn; both must give the same scores. Where the zoo's weights are not in the checkout, the hand-built teacher of
tests/profiling stands in, and the first line says so. On a machine that others use too, OMP_NUM_THREADS=1 tells more: the
threads of so small a model wait mostly for each other.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_core.cli.context import load_teacher, open_plugins, open_registry
from nexus_core.plugins import Plugins
from nexus_core.registry import resolve_path
from nexus_core.types import CapabilityMetric, Contract, Direction, Teacher, Thresholds

ROOT = Path(__file__).resolve().parents[1]
PLANTED = "planted"
SECONDS, BYTES = 90.0, 300e6
PEER_SAMPLES = 50


@dataclass(frozen=True)
class Subject:
    plugins: Plugins
    teacher: Teacher
    metric: CapabilityMetric
    contract: Contract


def subject(name: str) -> Subject:
    if name == PLANTED:
        return planted()
    registry, plugins = open_registry(), open_plugins()
    row = registry.teacher(name)
    capability = row.capabilities[0]
    contract = registry.contract(capability, row.id)
    return Subject(plugins, load_teacher(plugins, row), plugins.capability_metric(capability), contract)


def planted() -> Subject:
    path = ROOT / "tests" / "profiling" / "conftest.py"
    spec = importlib.util.spec_from_file_location("planted_teacher", path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    thresholds = Thresholds(0.02, 0.005)
    contract = Contract("lookup", "pack", "exact_match", Direction.HIGHER, 0.97, None, 1, 512, thresholds)
    return Subject(Plugins([]), module.build(42).teacher, module.Lookup(), contract)


def settings(samples: int) -> Any:
    """As `nexus profile --sample-size SAMPLES` has them."""
    from nexus_core.cli.profile import _settings

    return _settings(open_registry(), {"sample_size": samples, "layers": "auto", "seed": 42, "data": None})


# --- one profile, in a process of its own -----------------------------------------------------------------------------


def high_water(reset: bool = False) -> int:
    """Bytes of resident memory at its highest since the last reset."""
    if reset:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def profile_once(name: str, samples: int) -> dict[str, Any]:
    from nexus_core.profiling.run import Profiler

    it = subject(name)
    profiler = Profiler(it.plugins, it.teacher, it.metric, it.contract, settings(samples))
    before = high_water(reset=True)
    wall, cpu = time.perf_counter(), cpu_seconds()
    profile, scorer = profiler.run()
    return {
        "wall": time.perf_counter() - wall,
        "cpu": cpu_seconds() - cpu,
        "peak": high_water() - before,
        "decided": scorer.skipped / max(1, scorer.skipped + scorer.generated),
        "answers": scorer.skipped + scorer.generated,
        "baseline": profile.baseline_score,
        "blocks": [block.block for block in profile.blocks],
    }


# --- the peer -----------------------------------------------------------------------------------------------------


def generate_all(scorer: Any, cases: Sequence[Any], indices: Sequence[int]) -> Any:
    """The score of each sample under each intervention, every answer generated from its beginning, in batches as large
    and of rows as alike in length as the profiler makes them."""
    import numpy as np
    import torch

    from nexus_core.profiling.interventions import applied
    from nexus_core.profiling.scoring import TOGETHER, _Row, plan_of

    scores, options = np.zeros((len(cases), len(indices))), scorer.metric.options
    rows = [_Row(case, sample) for sample in indices for case in range(len(cases))]
    rows.sort(key=lambda row: len(scorer.samples[row.sample].prompt))
    with torch.inference_mode():
        for start in range(0, len(rows), TOGETHER):
            group = sorted(rows[start : start + TOGETHER], key=lambda row: row.case)
            samples = [scorer.samples[row.sample] for row in group]
            with applied(plan_of(cases, group), scorer.positions):
                scorer.positions.mask = scorer._answer_mask(samples, [[] for _ in samples])
                tokens = scorer.teacher.generate_tokens(samples, options, None, scorer.most)
            outputs = scorer.teacher.decode_tokens(tokens, options)
            scores[[row.case for row in group], [row.sample for row in group]] = scorer.metric.score_all(
                samples, outputs
            )
    return scores


def beside_peer(name: str, components: int, rounds: int) -> dict[str, Any]:
    import numpy as np

    from nexus_core.profiling import measure
    from nexus_core.profiling.draw import draw_samples
    from nexus_core.profiling.scoring import Scorer
    from nexus_core.profiling.sites import find_sites

    it = subject(name)
    samples = draw_samples(it.metric, PEER_SAMPLES, 42)
    sites = find_sites(it.teacher, it.teacher.encode(samples[:2]))
    scorer = Scorer(it.teacher, it.metric, samples)
    everyone = range(len(samples))
    pilot = measure.pilot(scorer, sites, everyone, 42)
    chosen = max(sites, key=lambda site: pilot[site.name])
    (spectrum,) = measure.spectra(scorer, [chosen], everyone, 64, pooled=False)
    picked = sorted({int(i) for i in np.linspace(0, spectrum.pca.k - 1, components)})
    cases = [spectrum.project([i]) for i in picked]
    scorer.scores(cases[:1], everyone), generate_all(scorer, cases[:1], everyone)  # what only the first turn pays
    scorer.generated = scorer.skipped = 0
    found: dict[str, Any] = {"shortcut": [], "peer": [], "different": 0, "block": chosen.name, "components": picked}
    for _ in range(rounds):
        started = time.perf_counter()
        quick = scorer.scores(cases, everyone)
        found["shortcut"].append(time.perf_counter() - started)
        started = time.perf_counter()
        slow = generate_all(scorer, cases, everyone)
        found["peer"].append(time.perf_counter() - started)
        found["different"] = max(found["different"], int((quick != slow).sum()))
    return {**found, "answers": quick.size, "decided": scorer.skipped / (scorer.skipped + scorer.generated)}


# --- report -------------------------------------------------------------------------------------------------------


def in_process(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, __file__, "--worker", *map(str, arguments)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if result.returncode:
        raise SystemExit(f"{' '.join(command[2:])} ended with {result.returncode}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def spread(values: Sequence[float], form: str) -> str:
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def report_profiles(name: str, sizes: Sequence[int], rounds: int) -> None:
    runs: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size in sizes:
            runs[size].append(in_process("profile", name, size))
    first = next(iter(runs.values()))[0]
    print(f"{name}: baseline {first['baseline']:.3f}, blocks {', '.join(first['blocks']) or 'none'}; {rounds} rounds")
    print(
        f"{'samples':>8} {'wall s':>22} {'CPU s':>22} {'MB beyond teacher':>22} {'answers':>9} {'by one forward':>15}"
    )
    for size, found in runs.items():
        wall, cpu = (spread([run[key] for run in found], ".1f") for key in ("wall", "cpu"))
        peak = spread([run["peak"] / 1e6 for run in found], ".0f")
        print(f"{size:>8} {wall:>22} {cpu:>22} {peak:>22} {found[0]['answers']:>9} {found[0]['decided']:>15.1%}")
    least, most = min(runs), max(runs)
    grown = [b["peak"] / a["peak"] for a, b in zip(runs[least], runs[most], strict=True)]
    print(f"memory with {most} samples is {spread(grown, '.2f')} times that with {least}")
    peak, wall = (statistics.median(run[key] for run in runs[most]) for key in ("peak", "wall"))
    print(f"{'within' if peak <= BYTES else 'OVER'} the budget of {BYTES / 1e6:.0f} MB", end="; ")
    print(f"{'within' if wall <= SECONDS else 'OVER'} the {SECONDS:.0f} s that 200 samples may take ({most} here)")


def report_peer(name: str, components: int, rounds: int) -> None:
    found = in_process("peer", name, components, max(3, rounds))
    ratios = [slow / quick for slow, quick in zip(found["peer"], found["shortcut"], strict=True)]
    picked = ", ".join(map(str, found["components"]))
    print(f"\n{found['block']}, components {picked}, {found['answers']} answers, {len(ratios)} turns each")
    print(f"{'by one forward':>22}: {spread(found['shortcut'], '.2f')} s, {found['decided']:.1%} of answers so decided")
    print(f"{'generating everything':>22}: {spread(found['peer'], '.2f')} s")
    print(f"{'ratio, turn by turn':>22}: {spread(ratios, '.1f')} times as fast")
    print(f"{'scores that differ':>22}: {found['different']} of {found['answers']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="zoo-reasoning", help=f"a row of the registry, or {PLANTED}")
    parser.add_argument("--samples", type=int, nargs="+", default=[50, 200])
    parser.add_argument("--rounds", type=int, default=1, help="profiles of each size; 3 show a spread")
    parser.add_argument("--components", type=int, default=4, help="for the comparison with the peer")
    parser.add_argument("--worker", nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        kind, name, *numbers = arguments.worker
        work: dict[str, Callable[..., dict[str, Any]]] = {"profile": profile_once, "peer": beside_peer}
        print(json.dumps(work[kind](name, *map(int, numbers))))
        return
    name = arguments.teacher
    if name != PLANTED and (presence := resolve_path(open_registry().teacher(name))).path is None:
        print(f"{name} is absent ({presence.reason}): measured on the hand-built teacher of tests/profiling instead,")
        print("a toy of four blocks with answers of two tokens: its figures say nothing about the zoo's")
        name = PLANTED
    report_profiles(name, arguments.samples, arguments.rounds)
    report_peer(name, arguments.components, arguments.rounds)


if __name__ == "__main__":
    main()
