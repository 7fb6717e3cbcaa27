"""Microseconds of one hook call over 30 implementations: Nexus's facade beside plain pluggy on the same plugins.

    python benchmarks/hook_call.py [--runs 9] [--plugins 30]

The facade calls one plugin at a time, so that an exception or a wrong type carries the plugin's name; this is its price.
Budget: 100 microseconds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import timeit
from collections.abc import Callable
from pathlib import Path

from startup import install_dummies

from nexus_core.plugins import Plugins
from nexus_core.types import Kind

BUDGET = 100.0
CALLS = 2000


def microseconds(call: Callable[[], object], runs: int) -> list[float]:
    call()
    return [1e6 * timeit.timeit(call, number=CALLS) / CALLS for _ in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--plugins", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        install_dummies(Path(name), options.plugins)
        sys.path.insert(0, name)
        plugins = Plugins([f"dummy{i}" for i in range(options.plugins)])
        plugins.require()
        implementations = plugins._manager.hook.capability_metric.get_hookimpls()
        assert len(implementations) == options.plugins
        hook = plugins._manager.hook.capability_metric
        times = {
            "nexus": microseconds(
                lambda: list(plugins.answers(Kind.CAPABILITY, "capability_metric", name="x")), options.runs
            ),
            "plain pluggy": microseconds(lambda: hook(name="x"), options.runs),
        }
    plain = statistics.median(times["plain pluggy"])
    print(f"one hook call over {options.plugins} implementations, microseconds, {options.runs} runs of {CALLS} calls")
    for label, values in times.items():
        median = statistics.median(values)
        print(
            f"{label:14}{median:8.1f}  ({min(values):.1f} to {max(values):.1f})  {median / plain:.2f} times plain pluggy"
        )
    verdict = "within" if statistics.median(times["nexus"]) <= BUDGET else "OVER"
    print(f"nexus: {verdict} the budget of {BUDGET:g} microseconds")


if __name__ == "__main__":
    main()
