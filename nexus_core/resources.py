"""Files that ship with the core but lie outside its package in a checkout: registry.yaml and the plugin template."""

from __future__ import annotations

from pathlib import Path

from nexus_core.errors import NexusError

_IN_CHECKOUT = {"registry.yaml": "registry.yaml", "template": "plugins/_template"}
"""Name under `nexus_core/_shared/` in a wheel -> path from the root of a checkout."""


def shared_path(name: str) -> Path:
    """The shared file or directory called `name`, in an installed wheel or else in the checkout."""
    package = Path(__file__).resolve().parent
    candidates = (package / "_shared" / name, package.parent / _IN_CHECKOUT[name])
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise NexusError(
        f"{name} is missing from this installation (looked at {candidates[0]} and {candidates[1]})",
        "reinstall nexus-core",
    )
