"""Streaming PCA against one full SVD of all rows, and what it says when there is nothing to find."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.profiling.pca import PCA, ActivationError, StreamingPCA, principal_angles, smallest_k, whiten


def spectrum(n: int, dim: int, strong: int, seed: int = 0) -> np.ndarray:
    """Rows with `strong` separated directions over a weak floor, far from the origin."""
    rng = np.random.default_rng(seed)
    directions = np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    scales = np.concatenate([np.geomspace(20, 3, strong), np.full(dim - strong, 0.05)])
    return rng.normal(size=(n, dim)) * scales @ directions.T + 50 * rng.normal(size=dim)


def full_svd(rows: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    values, vectors = np.linalg.svd(rows - rows.mean(axis=0), full_matrices=False)[1:]
    return vectors[:k], values[:k] ** 2 / (len(rows) - 1)


def stream(rows: np.ndarray, cuts: list[int], **options: int) -> PCA:
    pca = StreamingPCA(rows.shape[1], **options)
    for part in np.split(rows, sorted(cuts)):
        pca.update(part)
    return pca.result()


@pytest.mark.parametrize("exact_dim", [4096, 1], ids=["covariance", "incremental"])
@pytest.mark.parametrize("dim", [24, 96])
def test_equals_a_full_svd(dim: int, exact_dim: int) -> None:
    rows = spectrum(700, dim, strong=8)
    pca = stream(rows, [10, 11, 300, 450], k=8, exact_dim=exact_dim)
    basis, variance = full_svd(rows, 8)
    assert principal_angles(pca.basis, basis).max() < 1e-3
    for i in range(1, 9):  # each leading space of its own, not only the last
        assert principal_angles(pca.basis[:i], basis[:i]).max() < 1e-3
    np.testing.assert_allclose(pca.variance, variance, rtol=1e-4)
    np.testing.assert_allclose(pca.mean, rows.mean(axis=0), rtol=1e-10)
    assert pca.total_variance == pytest.approx(rows.var(axis=0, ddof=1).sum(), rel=1e-9)
    assert (pca.n, pca.k, pca.dim, pca.note) == (700, 8, dim, "")
    np.testing.assert_allclose(pca.basis @ pca.basis.T, np.eye(8), atol=1e-10)


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_order_and_any_cut_of_the_stream_give_one_result(data: st.DataObject) -> None:
    rows = spectrum(120, 16, strong=5, seed=data.draw(st.integers(0, 5)))
    order = data.draw(st.permutations(range(120)))
    cuts = data.draw(st.lists(st.integers(0, 120), max_size=8))
    one, other = stream(rows, [], k=5), stream(rows[order], cuts, k=5)
    assert principal_angles(one.basis, other.basis).max() < 1e-6
    np.testing.assert_allclose(one.basis, other.basis, atol=1e-6)  # signs too
    np.testing.assert_allclose(one.variance, other.variance, rtol=1e-9)
    np.testing.assert_allclose(one.mean, other.mean, rtol=1e-10)


def test_how_the_incremental_stream_was_cut_does_not_matter() -> None:
    rows = spectrum(300, 40, strong=6)
    one, other = stream(rows, [], k=6, exact_dim=1), stream(rows, [1, 2, 77, 130], k=6, exact_dim=1)
    np.testing.assert_allclose(one.basis, other.basis, atol=1e-9)


def test_small_variance_far_from_the_origin_is_not_lost() -> None:
    rng = np.random.default_rng(0)
    rows = 1e6 + rng.normal(size=(500, 6)) * [1.0, 0.1, 0.01, 0.001, 1e-4, 1e-5]
    pca = stream(rows, list(range(0, 500, 7)), k=6)
    assert pca.k == 6
    np.testing.assert_allclose(pca.variance, full_svd(rows, 6)[1], rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_torch_tensors_of_any_dtype(dtype: torch.dtype) -> None:
    tensor = torch.randn(80, 12, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    pca = StreamingPCA(12, k=4)
    pca.update(tensor)
    rows = tensor.detach().double().numpy()
    assert principal_angles(pca.result().basis, full_svd(rows, 4)[0]).max() < 1e-6
    np.testing.assert_allclose(pca.result().coordinates(tensor), pca.result().coordinates(rows))


@pytest.mark.parametrize("exact_dim", [4096, 1], ids=["covariance", "incremental"])
def test_memory_does_not_grow_with_the_number_of_rows(exact_dim: int) -> None:
    def peak(batches: int) -> int:
        rng = np.random.default_rng(0)
        pca = StreamingPCA(64, k=16, exact_dim=exact_dim)
        pca.update(rng.normal(size=(200, 64)))
        tracemalloc.start()
        for _ in range(batches):
            pca.update(rng.normal(size=(200, 64)))
        pca.result()
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(2)  # what is imported and cached on the first use
    assert peak(60) < 1.2 * peak(4)


def test_one_large_batch_is_taken_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = spectrum(1000, 32, strong=4)
    whole = stream(rows, [], k=4)
    monkeypatch.setattr("nexus_core.profiling.pca.CHUNK_VALUES", 32 * 10)
    np.testing.assert_allclose(stream(rows, [], k=4).basis, whole.basis, atol=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_row_that_is_no_number_names_its_block_and_its_place(bad: float) -> None:
    pca = StreamingPCA(4, block="model.layers.3")
    pca.update(np.ones((5, 4)))
    rows = np.ones((6, 4))
    rows[2, 1] = rows[4, 0] = bad
    with pytest.raises(ActivationError, match=r'block "model.layers.3": 2 rows hold NaN or Inf \(the first is row 7\)'):
        pca.update(rows)
    assert pca.n == 5


def test_float16_overflow_is_seen() -> None:
    with pytest.raises(ActivationError, match="NaN or Inf"):
        StreamingPCA(2).update(torch.full((3, 2), 60000.0).half() * 2)


def test_rows_of_another_width_are_refused() -> None:
    for rows in (np.ones((3, 5)), np.ones(4), np.ones((2, 3, 4)), [[1.0] * 4]):
        with pytest.raises(ActivationError, match=r"not \(m, 4\)"):
            StreamingPCA(4, block="b").update(rows)


def test_numbers_too_large_to_square_are_refused() -> None:
    pca = StreamingPCA(3, block="b")
    with np.errstate(over="ignore", invalid="ignore"):
        pca.update(np.array([[1e200, 0, 0], [-1e200, 0, 1], [0, 1, 0]]))
    with pytest.raises(ActivationError, match="too large to square"):
        pca.result()


def test_a_dead_block_has_no_component_and_says_so() -> None:
    for value in (0.0, 0.1, 12345.678):
        pca = StreamingPCA(8, k=4)
        for m in (3, 1, 7, 13):
            pca.update(np.full((m, 8), value))
        result = pca.result()
        assert (result.k, result.total_variance) == (0, 0.0)
        assert result.note == "no component: all 24 rows are the same"
        np.testing.assert_allclose(result.reconstruct(np.zeros((2, 0))), np.full((2, 8), value))
        assert result.coordinates(np.ones((3, 8))).shape == (3, 0)
        assert result.fractions.shape == (0,)


@pytest.mark.parametrize("exact_dim", [4096, 1], ids=["covariance", "incremental"])
def test_constant_features_and_a_deficient_rank(exact_dim: int) -> None:
    rng = np.random.default_rng(1)
    rows = np.full((200, 10), 7.3)
    rows[:, 2:8] = rng.normal(size=(200, 3)) @ rng.normal(size=(3, 6))
    pca = StreamingPCA(10, k=6, exact_dim=exact_dim)
    pca.update(rows)
    result = pca.result()
    assert (result.k, result.note) == (3, "3 of 6 components: the rows vary in 3 directions only")
    assert np.abs(result.basis[:, [0, 1, 8, 9]]).max() < 1e-12
    np.testing.assert_allclose(result.reconstruct(result.coordinates(rows)), rows, atol=1e-9)


@pytest.mark.parametrize("exact_dim", [4096, 1], ids=["covariance", "incremental"])
def test_fewer_samples_than_components(exact_dim: int) -> None:
    rows = np.random.default_rng(2).normal(size=(5, 30))
    result = stream(rows, [2], k=16, exact_dim=exact_dim)
    assert (result.k, result.note) == (4, "4 of 16 components: 5 rows span no more")
    assert principal_angles(result.basis, full_svd(rows, 4)[0]).max() < 1e-6
    one = stream(rows[:1], [], k=16, exact_dim=exact_dim)
    assert (one.k, one.note) == (0, "0 of 16 components: 1 rows span no more")


def test_no_rows_and_more_components_than_the_block_has() -> None:
    with pytest.raises(ActivationError, match="no rows"):
        StreamingPCA(4).result()
    assert stream(np.random.default_rng(3).normal(size=(50, 4)), [], k=9).note == (
        "4 of 9 components: the block has 4 dimensions"
    )
    with pytest.raises(ActivationError, match="20 components of a stream that keeps 8"):
        StreamingPCA(64, k=8, exact_dim=1).result(20)


def test_more_rows_may_follow_a_result() -> None:
    rows = spectrum(400, 20, strong=4)
    for exact_dim in (4096, 1):
        pca = StreamingPCA(20, k=4, exact_dim=exact_dim)
        pca.update(rows[:150])
        pca.result()
        pca.update(rows[150:])
        whole = stream(rows, [], k=4, exact_dim=exact_dim)
        np.testing.assert_allclose(pca.result().basis, whole.basis, atol=1e-9)


def test_selection_keeps_only_what_was_named() -> None:
    rows = spectrum(200, 12, strong=6)
    pca = stream(rows, [], k=6)
    chosen = pca.select([4, 1])
    np.testing.assert_array_equal(chosen.basis, pca.basis[[4, 1]])
    np.testing.assert_array_equal(chosen.variance, pca.variance[[4, 1]])
    np.testing.assert_allclose(chosen.coordinates(rows), pca.coordinates(rows)[:, [4, 1]])
    assert chosen.total_variance == pca.total_variance
    assert pca.select([]).k == 0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20), st.floats(0.01, 1.0))
def test_smallest_k_is_the_smallest(variance: list[float], fraction: float) -> None:
    k = smallest_k(variance, fraction)
    ordered = np.sort(variance)[::-1]
    total = ordered.sum()
    if total == 0:
        assert k == 0
        return
    assert ordered[:k].sum() >= fraction * total * (1 - 1e-9)
    assert k == 1 or ordered[: k - 1].sum() < fraction * total


def test_smallest_k_at_its_edges() -> None:
    assert smallest_k([], 0.97) == 0
    assert smallest_k([0.0, 0.0], 0.97) == 0
    assert smallest_k([97.0, 2.0, 1.0], 0.97) == 1
    assert smallest_k([96.0, 2.0, 1.0], 0.97) == 2
    assert smallest_k([1.0] * 10, 1.0) == 10
    assert smallest_k([0.1] * 10, 0.3) == 3


def test_whitened_coordinates_have_unit_variance() -> None:
    rows = spectrum(300, 10, strong=4)
    pca = stream(rows, [], k=4)
    np.testing.assert_allclose(whiten(pca.coordinates(rows), pca.variance).var(axis=0, ddof=1), 1.0)
    np.testing.assert_array_equal(whiten(np.ones((2, 2)), [4.0, 0.0]), [[0.5, 0.0], [0.5, 0.0]])


def test_angles_between_known_spaces() -> None:
    eye = np.eye(4)
    turned = np.array([[np.cos(1e-7), np.sin(1e-7), 0, 0]])
    np.testing.assert_allclose(principal_angles(eye[:1], turned), [1e-7], rtol=1e-6)
    np.testing.assert_allclose(principal_angles(eye[:2], eye[1:3]), [np.pi / 2, 0], atol=1e-12)
    assert principal_angles(eye[:0], eye).shape == (0,)
