"""Registers the tower `templatename`: the adapters that it builds, and the modality that it decodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_core.errors import NexusError
from nexus_core.hooks import hookimpl
from nexus_core.types import AdapterPlan, DecodeOptions

if TYPE_CHECKING:
    from torch import nn

NEXUS_API = 1


@hookimpl
def build_adapter(plan: AdapterPlan) -> nn.Module | None:
    if plan.tower != "templatename":
        return None
    from nexus_core.student.adapter import AnchoredBottleneck

    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)


@hookimpl
def decode(modality: str, output: Any, options: DecodeOptions) -> bytes | None:
    """Replace this with what your modality needs; here the student emits byte values."""
    if modality != "templatename":
        return None
    try:
        return bytes(int(value) for value in output)
    except (TypeError, ValueError) as error:
        raise NexusError(
            f"templatename output is not a sequence of bytes: {error}", "check the student's head"
        ) from error
