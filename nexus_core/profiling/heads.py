"""Which attention heads matter: those whose ablation is proven to cost something."""

from __future__ import annotations

from nexus_core.profiling.model import CapabilityProfile
from nexus_core.types import Thresholds


def important_heads(profile: CapabilityProfile, thresholds: Thresholds, most: int) -> dict[str, tuple[int, ...]]:
    """By block, at most `most` heads, the costliest first.

    A head counts when the whole interval of its drop is at or above `recoverable`: a few dozen samples exclude nothing from
    above, so caution would keep every head. Heads may also stand in for each other, so that losing any one of them costs
    nothing: where none is proven and the loss of the whole block is non-negotiable, all of them count, by their drops.
    """
    found: dict[str, tuple[int, ...]] = {}
    for block in dict.fromkeys(head.block for head in profile.heads):
        of_block = [head for head in profile.heads if head.block == block]
        heads = [head for head in of_block if head.low >= thresholds.recoverable]
        if not heads and profile.pilot.get(block, 0.0) >= thresholds.non_negotiable:
            heads = of_block
        heads.sort(key=lambda head: (-head.drop, head.head))
        if heads:
            found[block] = tuple(head.head for head in heads[:most])
    return found
