"""Planted truth: the profiler must find the block and the directions that were put there, and clear the others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from nexus_core.profiling import measure
from nexus_core.profiling.causal import decide
from nexus_core.profiling.interventions import Project
from nexus_core.profiling.model import ComponentClass
from nexus_core.profiling.pca import principal_angles
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import find_sites
from nexus_core.types import SampleRequest, Split, Thresholds

THRESHOLDS = Thresholds(non_negotiable=0.02, recoverable=0.005)
N = 800  # the fewest at which "no answer changed" bounds the drop below half a point


@pytest.fixture(scope="module")
def scorer(planted, lookup):
    return Scorer(planted.teacher, lookup, list(lookup.samples(SampleRequest(Split.PROFILE, N))))


@pytest.fixture(scope="module")
def sites(planted, scorer):
    return find_sites(planted.teacher, planted.teacher.encode(scorer.samples[:2]))


@pytest.fixture(scope="module")
def spectrum(planted, scorer, sites):
    site = next(site for site in sites if site.name == planted.block)
    return measure.spectra(scorer, [site], range(N), 64, pooled=False)[0]


def test_the_teacher_can_do_its_task(scorer):
    assert scorer.baseline.scores.mean() == 1.0


def test_the_planted_block_is_ranked_first(planted, scorer, sites):
    drops = measure.pilot(scorer, sites, range(40), seed=42)
    assert max(drops, key=drops.get) == planted.block
    assert sorted(drops.values())[-2] < 0.1 < drops[planted.block]


def test_the_planted_subspace_is_recovered_and_non_negotiable(planted, scorer, spectrum):
    found = measure.classify_components(scorer, spectrum, range(N), THRESHOLDS, single=8, seed=42)
    protected = [c.index for c in found if c.cls is ComponentClass.NON_NEGOTIABLE]
    assert len(protected) == len(planted.subspace)
    assert not any(c.undecided for c in found if c.index in protected)
    angles = principal_angles(spectrum.pca.basis[protected], planted.subspace)
    assert angles.max() < 0.1
    others = [c for c in found if c.index not in protected]
    assert len(others) >= 8
    assert {c.cls for c in others} == {ComponentClass.DISCARDABLE}


def test_random_orthogonal_directions_are_discardable(planted, scorer, spectrum):
    rng = np.random.default_rng(7)
    free = rng.standard_normal((8, planted.subspace.shape[1]))
    free -= free @ planted.subspace.T @ planted.subspace
    basis = np.linalg.qr(free.T)[0].T
    case = Project(spectrum.site, torch.from_numpy(basis).float(), torch.from_numpy(spectrum.pca.mean).float())
    ((drop, verdict),) = decide(scorer, [case], range(N), THRESHOLDS, seed=42)
    assert drop.value == 0.0
    assert verdict.cls is ComponentClass.DISCARDABLE
    assert not verdict.undecided


def test_few_samples_leave_it_undecided_and_the_stronger_class_stands(scorer, spectrum):
    ((drop, verdict),) = decide(scorer, [spectrum.project([20])], range(60), THRESHOLDS, seed=42)
    assert (drop.value, drop.n) == (0.0, 60)
    assert verdict.undecided
    assert verdict.cls is ComponentClass.NON_NEGOTIABLE  # 60 samples exclude a drop of 6 points, not one of 2


def test_the_protected_space_alone_reconstructs_the_task(planted, scorer, spectrum):
    found = measure.classify_components(scorer, spectrum, range(200), THRESHOLDS, single=8, seed=42)
    only = [c for c in found if c.index < len(planted.subspace)]
    trial = measure.Trial(range(200, 250), range(250, 300), limit=0.01, seed=42)
    kept, tried = measure.reconstruct(scorer, spectrum, only, trial)
    assert len(kept) == len(planted.subspace)
    assert [attempt.passed for attempt in tried] == [True, True]  # where it was sought, and where it is verified
    assert tried[-1].undecided  # 50 samples cannot exclude a loss of one point
    one_short = [c for c in only if c.index != 0]
    _, tried = measure.reconstruct(scorer, spectrum, one_short, trial)
    assert not tried[0].passed


def test_the_tolerance_is_where_noise_begins_to_cost(planted, scorer, spectrum):
    trial = measure.Trial(range(50), range(50, 150), limit=0.01, seed=42)
    held = measure.tolerance(scorer, spectrum, range(len(planted.subspace)), trial)
    assert held in measure.NOISE_LEVELS[:-1]  # codes a little apart bear a little noise, and not any
    assert measure.tolerance(scorer, spectrum, range(10, 14), trial) == measure.NOISE_LEVELS[-1]  # free directions
    assert measure.tolerance(scorer, spectrum, [], trial) is None


def test_k_grows_beyond_what_was_tested_and_takes_no_direction_twice(planted, scorer, spectrum):
    trial = measure.Trial(range(50), range(50, 100), limit=0.01, seed=42)
    narrow = replace(spectrum, tested=2)
    found = measure.classify_components(scorer, narrow, range(100), THRESHOLDS, single=2, seed=42)
    assert [c.index for c in found] == [0, 1]
    kept, tried = measure.reconstruct(scorer, narrow, found, trial)
    assert not tried[0].passed
    assert tried[-1].passed
    assert set(range(len(planted.subspace))) <= set(kept)
    together = measure.classify_together(scorer, narrow, range(100), THRESHOLDS, seed=42)
    impossible = replace(trial, limit=-1.0)  # nothing passes, so everything is tried
    kept, tried = measure.reconstruct(scorer, narrow, together, impossible)
    assert sorted(kept) == list(range(spectrum.pca.k))
    assert max(attempt.k for attempt in tried) == spectrum.pca.k
