"""One adapter per capability: which teacher owns it, and what becomes of the others.

The teacher with the better baseline score owns the adapter. Another whose protected space overlaps heavily with the
owner's (SVCCA against chance, `overlap_heavy` of the registry) is merged into it: what it would teach is held already.
"""

from __future__ import annotations

from collections.abc import Sequence

from nexus_core.architect.candidates import Candidate
from nexus_core.profiling.compare import coordinates
from nexus_core.profiling.overlap import OverlapOptions, measure_overlap
from nexus_core.student.arch import Decision


def choose_owner(candidates: Sequence[Candidate], options: OverlapOptions) -> tuple[Candidate | None, list[Decision]]:
    """The candidate that owns the capability's adapter (None: nothing can be planned), and a decision for each."""
    decisions = [
        Decision("drop", each.name, f"its profile carries no plan: {each.special_handling or 'nothing is protected'}")
        for each in candidates
        if not any(need.rank for need in each.needs)
    ]
    able = [each for each in candidates if any(need.rank for need in each.needs)]
    if not able:
        return None, decisions
    # The better score, then the more that is proven; among equals the first by name, whatever the order they came in.
    owner = max(sorted(able, key=lambda each: each.name), key=lambda each: each.standing)
    decisions.append(Decision("keep", owner.name, _why_kept(owner, len(able))))
    others = sorted((each for each in able if each is not owner), key=lambda each: each.name)
    return owner, decisions + [_other(owner, each, options) for each in others]


def _why_kept(owner: Candidate, able: int) -> str:
    profile = owner.profile
    reason = f"{profile.metric} {profile.baseline_score:.4g}, {owner.proven} components proven non-negotiable"
    if able > 1:
        reason += f"; the best of {able} teachers of this capability"
    if owner.special_handling:
        reason += f"; with reservations: {owner.special_handling}"
    return reason


def _other(owner: Candidate, other: Candidate, options: OverlapOptions) -> Decision:
    found = measure_overlap(owner.profile.capability, coordinates(owner.profile), coordinates(other.profile), options)
    score = f"{other.profile.metric} {other.profile.baseline_score:.4g} beside {owner.profile.baseline_score:.4g}"
    if found.heavy:
        reason = (
            f"into {owner.name}: their protected spaces overlap heavily (SVCCA above chance {found.corrected:.2f}, heavy "
            f"from {options.heavy_above:g}, {found.n} samples); {score}"
        )
        return Decision("merge", other.name, reason)
    measured = (
        f"overlap {found.corrected:.2f}" if found.corrected is not None else f"overlap not measured: {found.reason}"
    )
    reason = f"one adapter per capability, and {owner.name} has it: {score}; {measured}, so nothing is merged"
    return Decision("drop", other.name, reason)
