"""Two teachers of one capability, compared through what the store kept of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nexus_core.plugins import Plugins
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.profiling.compare import compare_profiles, coordinates
from nexus_core.profiling.overlap import OverlapOptions
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.profiling.run import Profiler, ProfileSettings
from nexus_core.types import Contract, Direction, Thresholds

CONTRACT = Contract("lookup", "pack", "exact_match", Direction.HIGHER, 0.97, None, 1, 512, Thresholds(0.02, 0.005))
SETTINGS = ProfileSettings(60, 20, 40, 1, 4, 16, 16, 0.01)
OPTIONS = OverlapOptions(heavy_above=0.8)


@pytest.fixture(scope="module")
def profile(one_planted, lookup):
    # 60 + 40 samples
    return Profiler(Plugins([]), one_planted.teacher, lookup, CONTRACT, SETTINGS).run()[0]


def put(store, profile, name, coords=None):
    block = profile.blocks[0] if coords is None else replace(profile.blocks[0], coords=coords)
    named = replace(profile, teacher=name, blocks=(block,))
    store.write(named, plan_capability(named, CONTRACT, PlanSettings(0.97, 5, 10)))


def test_verification_rows_come_last_and_carry_their_digests(profile):
    side = coordinates(profile)
    assert len(side.digests) == len(side.coords) == len(profile.verify_outputs) == 40
    assert len(profile.blocks[0].coords) == 100
    assert (side.coords == profile.blocks[0].coords[-40:]).all()


def test_a_rotated_twin_overlaps_heavily_and_a_stranger_does_not(profile, tmp_path):
    rng = np.random.default_rng(0)
    coords = profile.blocks[0].coords
    turn = np.linalg.qr(rng.standard_normal((coords.shape[1],) * 2))[0]
    store = ProfileStore(tmp_path / "out")
    put(store, profile, "first")
    put(store, profile, "twin", coords @ turn)
    put(store, profile, "stranger", rng.standard_normal(coords.shape))
    found = {(o.teacher_a, o.teacher_b): o for o in compare_profiles(store, OPTIONS)}
    assert found["first", "twin"].heavy
    assert not found["first", "stranger"].heavy
    assert not found["stranger", "twin"].heavy
    assert [row["heavy"] for row in store.plan_documents()["adapter_capacity_plan.json"]["overlaps"]].count(True) == 1


def test_one_teacher_has_nobody_to_be_compared_with(profile, tmp_path):
    store = ProfileStore(tmp_path / "out")
    put(store, profile, "alone")
    assert compare_profiles(store, OPTIONS) == []
