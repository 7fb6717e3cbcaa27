"""Overlap of two teachers: 1 where they agree up to a linear map, chance where they do not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.profiling.overlap import (
    Overlap,
    OverlapOptions,
    TeacherCoordinates,
    heavy_overlaps,
    measure_overlap,
)
from nexus_core.profiling.pca import ActivationError

OPTIONS = OverlapOptions(heavy_above=0.8, permutations=100)


def overlap(x: np.ndarray, y: np.ndarray, options: OverlapOptions = OPTIONS) -> Overlap:
    digests = tuple(map(str, range(len(x))))
    return measure_overlap(
        "math", TeacherCoordinates("ada", digests, x), TeacherCoordinates("bob", digests[: len(y)], y), options
    )


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def test_one_and_the_same() -> None:
    x = normal(0, 50, 6)
    same = overlap(x, x)
    assert (same.cca, same.svcca, same.rsa) == pytest.approx((1, 1, 1))
    assert same.heavy
    assert (same.teacher_a, same.teacher_b, same.capability, same.n, same.reason) == ("ada", "bob", "math", 50, "")


def test_a_rotation_and_a_shift_change_nothing_but_a_linear_map_changes_the_geometry() -> None:
    x = normal(0, 60, 5)
    turned = overlap(x, 3 * x @ np.linalg.qr(normal(1, 5, 5))[0] + 100)
    assert (turned.cca, turned.svcca, turned.rsa) == pytest.approx((1, 1, 1))
    mapped = overlap(x, x @ (normal(2, 5, 9) * np.geomspace(10, 0.1, 9)))
    assert mapped.cca == pytest.approx(1)
    assert mapped.rsa is not None and mapped.rsa < 0.9


@pytest.mark.parametrize(("n", "k"), [(50, 128), (50, 20), (50, 3), (200, 64)])
def test_unrelated_teachers_are_at_chance_however_many_dimensions_they_have(n: int, k: int) -> None:
    heavy = 0
    for seed in range(5):
        found = overlap(normal(seed, n, k), normal(100 + seed, n, k + 2))
        assert found.svcca is not None and found.chance is not None and found.corrected is not None
        assert found.svcca < found.chance.svcca + 0.1
        assert abs(found.corrected) < 0.25
        assert found.rsa is not None and abs(found.rsa) < 0.3
        heavy += found.heavy
    assert heavy == 0


def test_with_many_dimensions_the_uncorrected_number_would_deceive() -> None:
    """The reason for the baseline: two unrelated teachers at 50 samples and 128 components."""
    found = overlap(normal(0, 50, 128), normal(1, 50, 128))
    assert found.svcca is not None and found.svcca > 0.3
    assert found.chance is not None and found.chance.svcca > 0.3
    assert not found.heavy


def test_more_shared_signal_is_more_overlap() -> None:
    shared, own = normal(0, 120, 4), normal(1, 120, 4)
    found = [overlap(shared, np.sqrt(1 - w) * shared + np.sqrt(w) * own).corrected for w in (0.0, 0.2, 0.6, 1.0)]
    assert found == sorted(found, reverse=True)
    assert found[0] == pytest.approx(1) and found[-1] < 0.2


def test_heaviness_is_decided_by_the_argument_alone() -> None:
    shared = normal(0, 120, 4)
    noisy = shared + 0.7 * normal(1, 120, 4)
    value = overlap(shared, noisy).corrected
    assert value is not None and 0.3 < value < 0.9
    assert overlap(shared, noisy, OverlapOptions(value - 0.01, 100)).heavy
    assert not overlap(shared, noisy, OverlapOptions(value + 0.01, 100)).heavy


def test_samples_are_matched_by_digest_not_by_place() -> None:
    x = normal(0, 40, 4)
    a = TeacherCoordinates("ada", tuple(f"s{i}" for i in range(40)), x)
    order = np.random.default_rng(1).permutation(40)[:30]
    b = TeacherCoordinates("bob", (*(f"s{i}" for i in order), "other"), np.vstack([x[order], 9 * np.ones(4)]))
    found = measure_overlap("math", a, b, OPTIONS)
    assert (found.n, found.cca, found.heavy) == (30, pytest.approx(1), True)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 100), st.integers(1, 6), st.integers(1, 6))
def test_symmetric_bounded_and_reproducible(seed: int, k1: int, k2: int) -> None:
    x, y = normal(seed, 24, k1), normal(seed + 1, 24, k2)
    options = OverlapOptions(0.8, 20)
    one, again, other = overlap(x, y, options), overlap(x, y, options), overlap(y, x, options)
    assert one == again
    assert (one.cca, one.svcca, one.rsa) == pytest.approx((other.cca, other.svcca, other.rsa))
    assert 0 <= one.cca <= 1 and 0 <= one.svcca <= 1 and -1 <= one.rsa <= 1


@pytest.mark.parametrize(
    ("x", "y", "reason"),
    [
        (normal(0, 50, 0), normal(1, 50, 3), "ada has no protected component"),
        (normal(0, 50, 3), np.full((50, 3), 0.1), "bob does not tell these samples apart"),
        (normal(0, 3, 3), normal(1, 3, 3), "3 shared samples: at least 4 are needed"),
    ],
)
def test_what_cannot_be_measured_has_a_reason_and_no_number(x: np.ndarray, y: np.ndarray, reason: str) -> None:
    found = overlap(x, y)
    assert (found.cca, found.svcca, found.rsa, found.chance, found.heavy) == (None, None, None, None, False)
    assert found.reason == reason


def test_faulty_coordinates_are_refused_with_the_name_of_the_teacher() -> None:
    bad = normal(0, 10, 2)
    bad[3, 1] = np.nan
    with pytest.raises(ActivationError, match="bob: coordinates hold NaN or Inf"):
        overlap(normal(1, 10, 2), bad)
    with pytest.raises(ActivationError, match=r"ada: coordinates of shape \(9, 2\) for 10 samples"):
        measure_overlap(
            "math",
            TeacherCoordinates("ada", tuple("abcdefghij"), normal(0, 9, 2)),
            TeacherCoordinates("bob", tuple("abcdefghij"), normal(0, 10, 2)),
            OPTIONS,
        )


def test_heavy_pairs_come_strongest_first() -> None:
    x = normal(0, 60, 3)
    pairs = [overlap(x, x + 0.3 * normal(1, 60, 3)), overlap(x, normal(2, 60, 3)), overlap(x, x)]
    assert heavy_overlaps(pairs) == (pairs[2], pairs[0])
