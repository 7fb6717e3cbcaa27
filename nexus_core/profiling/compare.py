"""Compare every pair of teachers that were profiled on one capability, by what they made of the shared verification inputs.

Both were asked the same samples (same pack, seed and sizes), so their last rows of coordinates belong together. Heavy
overlap is only reported: merging is the architect's decision.
"""

from __future__ import annotations

import itertools
from collections import defaultdict

import numpy as np

from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.model import CapabilityProfile
from nexus_core.profiling.overlap import Overlap, OverlapOptions, TeacherCoordinates, measure_overlap


def compare_profiles(store: ProfileStore, options: OverlapOptions) -> list[Overlap]:
    """The overlap of every pair, stored with the plans."""
    by_capability: dict[str, list[CapabilityProfile]] = defaultdict(list)
    for teacher, capability in store.profiles():
        by_capability[capability].append(store.read(teacher, capability))
    overlaps = [
        measure_overlap(capability, coordinates(a), coordinates(b), options)
        for capability, profiles in sorted(by_capability.items())
        for a, b in itertools.combinations(profiles, 2)
    ]
    store.write_overlaps(overlaps)
    return overlaps


def coordinates(profile: CapabilityProfile) -> TeacherCoordinates:
    """A teacher's coordinates of its verification samples, the protected spaces of all its blocks side by side."""
    digests = tuple(output.digest for output in profile.verify_outputs)
    rows = [block.coords[len(block.coords) - len(digests) :] for block in profile.blocks if block.pca.k]
    return TeacherCoordinates(profile.teacher, digests, np.hstack(rows) if rows else np.zeros((len(digests), 0)))
