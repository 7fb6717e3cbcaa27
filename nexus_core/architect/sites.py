"""Where an adapter's bottlenecks sit in the student, and how wide they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from nexus_core.architect.candidates import BlockNeed, Candidate
from nexus_core.student.arch import Decision, Site


@dataclass(frozen=True, slots=True)
class Room:
    """What the student offers: its blocks, its width, and the preset's largest rank."""

    blocks: int
    width: int
    rank_most: int
    preset: str


def place(owner: Candidate, room: Room) -> tuple[tuple[Site, ...], list[Decision]]:
    """The sites of the owner's protected blocks, in order; a decision for each block and each cap."""
    needs = [need for need in owner.needs if need.rank]
    decisions = [
        Decision("drop", _subject(owner, need), "nothing is protected there") for need in owner.needs if not need.rank
    ]
    left = sorted(needs, key=_strength)[: max(0, len(needs) - room.blocks)]
    kept = [need for need in needs if need not in left]
    decisions += [Decision("drop", _subject(owner, need), _lost(need, room.blocks)) for need in left]
    places = student_blocks([need.index for need in kept], owner.depth, room.blocks)
    sites = []
    for block, need in zip(places, kept, strict=True):
        rank, cap = _rank(owner, need, room)
        reason = (
            f"block {need.index} of 0 to {owner.depth - 1} to student block {block} of 0 to {room.blocks - 1}, by depth"
        )
        decisions.append(Decision("map", _subject(owner, need), reason))
        decisions += [Decision("cap", _subject(owner, need), cap)] if cap else []
        sites.append(Site(block, rank, need.block))
    return tuple(sites), decisions


def student_blocks(indices: Sequence[int], depth: int, blocks: int) -> tuple[int, ...]:
    """A student block of its own for each of the teacher's blocks, in their order and as near to their depth as they can be.

    The last one is never earlier than the teacher's, so that all that came before it in the teacher has had its place in
    the student too. Of equally near places the earlier ones are taken.
    """
    exact = [(index + 1) * blocks / depth - 1 for index in indices]
    last = math.ceil(exact[-1]) if exact else 0
    fitting = (places for places in combinations(range(blocks), len(indices)) if not places or places[-1] >= last)
    return min(fitting, key=lambda places: (sum(abs(p - e) for p, e in zip(places, exact, strict=True)), places))


def _strength(need: BlockNeed) -> tuple[int, int, int]:
    return need.proven, need.non_negotiable, need.index


def _lost(loser: BlockNeed, blocks: int) -> str:
    return (
        f"{blocks} student blocks for more protected ones, and {loser.proven} proven components are the fewest: one "
        "bottleneck of a capability per block"
    )


def _rank(owner: Candidate, need: BlockNeed, room: Room) -> tuple[int, str]:
    """The plan's rank under every limit, and which of them bound it."""
    limits = {
        "the contract": owner.rank_cap,
        f"the preset {room.preset}": room.rank_most,
        "the student's width": room.width,
    }
    lowest = min(limits.values())
    if need.rank > lowest:
        binding = next(name for name, limit in limits.items() if limit == lowest)
        return lowest, f"rank {lowest} of {need.wanted}: {binding} allows no more"
    if need.wanted > need.rank:
        return need.rank, f"rank {need.rank} of {need.wanted}: the contract at the time of profiling allowed no more"
    return need.rank, ""


def _subject(owner: Candidate, need: BlockNeed) -> str:
    return f"{owner.name}/{need.block}"


def port_blocks(blocks: int, every: int) -> tuple[int, ...]:
    """After every `every`-th block; a shallow student has one port, after its last block."""
    found: Sequence[int] = range(every - 1, blocks, every)
    return tuple(found) or (blocks - 1,)
