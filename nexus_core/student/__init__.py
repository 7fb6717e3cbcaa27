"""The student: what the architect planned, what a tower builds, and what a bundle carries.

Importing this package is cheap, so that a plan can be read without torch. The first use of a model's name imports torch
and transformers, and registers the student with AutoConfig and AutoModelForCausalLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_core.student.arch import AdapterArch, StudentArch, TowerArch, read_arch, write_arch

if TYPE_CHECKING:
    from nexus_core.student.config import NexusConfig
    from nexus_core.student.model import NexusForCausalLM, NexusStudent

__all__ = [
    "AdapterArch",
    "NexusConfig",
    "NexusForCausalLM",
    "NexusStudent",
    "StudentArch",
    "TowerArch",
    "read_arch",
    "write_arch",
]


def __getattr__(name: str) -> Any:
    if name in ("NexusConfig", "NexusForCausalLM", "NexusStudent"):
        from nexus_core.student import model

        return getattr(model, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
