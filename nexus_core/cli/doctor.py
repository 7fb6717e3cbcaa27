"""`nexus doctor`: what this machine is, and what is missing or quarantined."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import click

from nexus_core import __version__
from nexus_core.cli.output import print_json, print_table

LIBRARIES = ("torch", "transformers", "diffusers", "bitsandbytes", "accelerate", "peft", "safetensors", "torchaudio")
GIB = 1 << 30
DISK_WANTED = (
    20 * GIB
)  # a run's working space for large teachers (README, "What it needs"); less is a note, not a fault


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document instead of a table.")
def command(as_json: bool) -> None:
    """Say what this machine is and what is missing. Exit status 1 if something needs repair.

    \b
    Examples:
      nexus doctor
      nexus doctor --json
    """
    problems: list[str] = []
    facts = {**_machine(), **_libraries(problems), **_plugins(problems), **_registry(problems)}
    if as_json:
        print_json({"facts": facts, "problems": problems})
    else:
        print_table(["what", "found"], [[name, str(value)] for name, value in facts.items()])
        click.echo("\n".join(f"problem: {problem}" for problem in problems) or "nothing needs repair")
    if problems:
        sys.exit(1)


def _machine() -> dict[str, Any]:
    import psutil

    disk = shutil.disk_usage(Path.cwd())
    memory = psutil.virtual_memory()
    note = "" if disk.free >= DISK_WANTED else f" (large teachers want {DISK_WANTED // GIB} GiB)"
    return {
        "nexus-core": __version__,
        "python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        "processor": f"{psutil.cpu_count(logical=False)} cores, {psutil.cpu_count()} threads",
        "memory": f"{memory.available / GIB:.1f} GiB free of {memory.total / GIB:.1f}",
        "disk here": f"{disk.free / GIB:.1f} GiB free of {disk.total / GIB:.1f}{note}",
    }


def _libraries(problems: list[str]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    for name in LIBRARIES:
        try:
            facts[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            facts[name] = "not installed"
    if "not installed" in (facts["torch"], facts["transformers"]):
        problems.append('teachers and students need torch and transformers: pip install "nexus-core[ml]"')
        return facts
    try:
        facts["device"] = _device()
    except (ImportError, OSError, RuntimeError) as error:  # a torch whose libraries do not fit this machine
        problems.append(f"torch is installed but cannot be imported: {error}")
    return facts


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        return ", ".join(f"{gpu.name}, {gpu.total_memory / GIB:.0f} GiB" for gpu in names)
    if torch.backends.mps.is_available():
        return "Apple GPU (mps)"
    return f"CPU, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"


def _plugins(problems: list[str]) -> dict[str, Any]:
    from nexus_core.plugins import Plugins

    statuses = Plugins().status()
    broken = [status for status in statuses if not status.ok]
    problems += [f"plugin {s.ref.name} ({s.ref.kind.value}) is quarantined: {s.reason}" for s in broken]
    return {"plugins": f"{len(statuses) - len(broken)} loaded, {len(broken)} quarantined"}


def _registry(problems: list[str]) -> dict[str, Any]:
    from nexus_core.cli.context import open_registry
    from nexus_core.errors import NexusError

    try:
        registry = open_registry()
    except NexusError as error:
        problems.append(f"the registry cannot be read: {error}")
        return {"registry": "not readable"}
    counts = (
        f"{len(registry.teachers)} teachers, {len(registry.capabilities)} capabilities, {len(registry.towers)} towers"
    )
    return {"registry": f"{counts} ({registry.path})"}
