"""CPU-seconds of the light commands with all installed plugins and 30 generated ones, beside `python -c pass` and `llm`.

    python benchmarks/startup.py [--runs 9] [--plugins 30] [--llm /path/to/llm]

CPU time (user and system) of the child process, not wall time: a busy machine moves it little. Budget: 0.35 s for --help.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

BUDGET = 0.35
NEXUS = [sys.executable, "-c", "from nexus_core.cli.main import main; main()"]
PLUGIN = """
from nexus_core.hooks import hookimpl

NEXUS_API = 1


@hookimpl
def capability_metric(name):
    return None
"""


def install_dummies(site: Path, count: int) -> None:
    """`count` capability packs with their dist-infos, as pip would leave them."""
    for i in range(count):
        package = site / f"nexus_capability_dummy{i}"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "plugin.py").write_text(PLUGIN, encoding="utf-8")
        info = site / f"nexus_capability_dummy{i}-0.1.0.dist-info"
        info.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: nexus-capability-dummy{i}\nVersion: 0.1.0\n"
        (info / "METADATA").write_text(f"{metadata}Requires-Dist: nexus-core>=0.1,<0.2\n", encoding="utf-8")
        entry = f"[nexus.capabilities]\ndummy{i} = nexus_capability_dummy{i}.plugin\n"
        (info / "entry_points.txt").write_text(entry, encoding="utf-8")
        (info / "RECORD").write_text(f"nexus_capability_dummy{i}/plugin.py,,\n", encoding="utf-8")


def cpu_seconds(command: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return usage.ru_utime + usage.ru_stime


def measure(command: list[str], environment: dict[str, str], runs: int) -> list[float]:
    cpu_seconds(command, environment)  # bytecode and the file cache, as on any but the first call
    return [cpu_seconds(command, environment) for _ in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--plugins", type=int, default=30)
    parser.add_argument("--llm", default=shutil.which("llm"), help="the peer's program; `pip install llm`")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        install_dummies(Path(name), options.plugins)
        environment = {**os.environ, "PYTHONPATH": name}
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "nexus --help": [*NEXUS, "--help"],
            "nexus plugins": [*NEXUS, "plugins"],
            "nexus registry list": [*NEXUS, "registry", "list"],
        }
        if options.llm:
            commands["llm --help"] = [options.llm, "--help"]
        else:
            print("llm --help: skipped, the peer is not installed (pip install llm, or --llm PATH)")
        times = {label: measure(command, environment, options.runs) for label, command in commands.items()}
    report(times, options.plugins)


def report(times: dict[str, list[float]], plugins: int) -> None:
    medians = {label: statistics.median(values) for label, values in times.items()}
    print(
        f"CPU-seconds with {plugins} generated plugins beside the installed ones, {len(times['nexus --help'])} runs each"
    )
    print(f"{'command':22}{'median':>8}{'least':>8}{'most':>8}   nexus --help is this many times it")
    for label, values in times.items():
        ratio = medians["nexus --help"] / medians[label]
        print(f"{label:22}{medians[label]:8.3f}{min(values):8.3f}{max(values):8.3f}   {ratio:.2f}")
    verdict = "within" if medians["nexus --help"] <= BUDGET else "OVER"
    print(f"nexus --help: {verdict} the budget of {BUDGET} CPU-seconds")


if __name__ == "__main__":
    main()
