"""Where an adapter's bottlenecks sit in the student, and how wide they are."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    taken: dict[int, BlockNeed] = {}
    for need in needs:
        block = student_block(need.index, owner.depth, room.blocks, last=need is needs[-1])
        if block in taken:
            winner, loser = sorted((taken[block], need), key=_strength, reverse=True)
            taken[block] = winner
            decisions.append(Decision("drop", _subject(owner, loser), _lost(block, winner, loser)))
        else:
            taken[block] = need
    sites = []
    for block, need in sorted(taken.items()):
        rank, cap = _rank(owner, need, room)
        reason = (
            f"block {need.index} of 0 to {owner.depth - 1} to student block {block} of 0 to {room.blocks - 1}, by depth"
        )
        decisions.append(Decision("map", _subject(owner, need), reason))
        decisions += [Decision("cap", _subject(owner, need), cap)] if cap else []
        sites.append(Site(block, rank, need.block))
    return tuple(sites), decisions


def student_block(index: int, depth: int, blocks: int, last: bool) -> int:
    """The student block whose output is as deep as that of the teacher's block.

    Halfway between two it is the earlier one; for the last protected block it is never earlier than the teacher's, so that
    all that came before it in the teacher has had its place in the student too.
    """
    exact = (index + 1) * blocks / depth - 1
    block = math.ceil(exact) if last else math.ceil(exact - 0.5)
    return min(max(block, 0), blocks - 1)


def _strength(need: BlockNeed) -> tuple[int, int, int]:
    return need.proven, need.non_negotiable, need.index


def _lost(block: int, winner: BlockNeed, loser: BlockNeed) -> str:
    return (
        f"{winner.block} holds student block {block} with {winner.proven} proven components beside {loser.proven}; "
        "one bottleneck of a capability per block"
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
