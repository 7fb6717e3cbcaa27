"""Compressed logits: the cap, the KL bar against plain top-50, and exactness of what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache import LogitCodec, Packed, Rule, TailAverage, TailShape, kl_divergence

V = 32_000
CAP = 114


def zipf(n: int, exponent: float, noise: float = 0.0, permuted: bool = True, vocabulary: int = V) -> np.ndarray:
    generator = np.random.default_rng(int(exponent * 10))
    rows = np.tile(-exponent * np.log(np.arange(1, vocabulary + 1)), (n, 1)).astype(np.float32)
    rows += noise * generator.normal(size=rows.shape).astype(np.float32)
    return generator.permuted(rows, axis=1) if permuted else rows


def gauss(n: int, scale: float, vocabulary: int = V) -> np.ndarray:
    return (scale * np.random.default_rng(int(scale)).normal(size=(n, vocabulary))).astype(np.float32)


def flat_top(n: int) -> np.ndarray:
    """300 equally likely tokens and a long tail: no list of 50 is right."""
    rows = gauss(n, 1.0)
    rows[:, 1000:1300] = 9.0
    return rows


FAMILIES = {
    "zipf 0.8": lambda: zipf(12, 0.8),
    "zipf 1": lambda: zipf(12, 1.0),
    "zipf 1, noisy": lambda: zipf(12, 1.0, noise=1.0),
    "zipf 1.5": lambda: zipf(12, 1.5),
    "zipf 2": lambda: zipf(12, 2.0),
    "zipf 3": lambda: zipf(12, 3.0),
    "zipf 1, ids by frequency": lambda: zipf(12, 1.0, noise=1.5, permuted=False),
    "gauss 0.3": lambda: gauss(12, 0.3),
    "gauss 1": lambda: gauss(12, 1.0),
    "gauss 3": lambda: gauss(12, 3.0),
    "gauss 6": lambda: gauss(12, 6.0),
    "flat top": lambda: flat_top(12),
    "zipf 2, hot": lambda: zipf(12, 2.0) / 3,
    "zipf 1, cold": lambda: zipf(12, 1.0, noise=1.0) * 4,
}


def plain_top_k(log_probs: np.ndarray, k: int = 50) -> np.ndarray:
    """What top-k with int32 ids, fp16 values and the tail's mass spread uniformly gives back, (T, V)."""
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :k]
    rest = np.exp(log_probs.astype(np.float64))
    np.put_along_axis(rest, ids, 0, axis=1)
    rebuilt = np.repeat(np.log(rest.sum(1) / (log_probs.shape[1] - k))[:, None], log_probs.shape[1], 1)
    np.put_along_axis(rebuilt, ids, np.take_along_axis(log_probs, ids, 1).astype(np.float16).astype(float), axis=1)
    return rebuilt - np.log(np.exp(rebuilt).sum(1, keepdims=True))


def same_bytes(a: Packed, b: Packed) -> bool:
    return np.array_equal(a.data, b.data) and np.array_equal(a.lengths, b.lengths)


@pytest.mark.parametrize("family", FAMILIES)
def test_114_bytes_come_nearer_to_the_truth_than_plain_top_50(family):
    codec = LogitCodec(V)
    logits = FAMILIES[family]()
    packed = codec.encode(logits)
    assert packed.lengths.astype(int).max() + 1 <= CAP
    assert packed.nbytes <= CAP * len(logits)
    true = codec.log_probs(logits)
    ours = kl_divergence(true, codec.decode(packed).full())
    assert ours.mean() <= kl_divergence(true, plain_top_k(true)).mean()


@pytest.mark.parametrize("family", ["zipf 1, noisy", "zipf 3", "gauss 1", "zipf 1, cold", "flat top"])
def test_kept_entries_are_the_likeliest_and_exact_to_the_stored_precision(family):
    codec = LogitCodec(V)
    logits = FAMILIES[family]()
    true = codec.log_probs(logits).astype(np.float16)
    top = codec.decode(codec.encode(logits))
    for row in range(len(top)):
        n = top.counts[row]
        ids, values = top.ids[row, :n], top.log_probs[row, :n]
        assert len(set(ids.tolist())) == n and (top.ids[row, n:] == -1).all()
        assert np.array_equal(np.sort(true[row, ids]), np.sort(np.partition(true[row], -n)[-n:]))
        exact = top.exact_entries[row, :n]
        assert exact.sum() == top.exact[row] >= 4
        assert np.array_equal(values[exact].view(np.uint16), true[row, ids][exact].view(np.uint16))
        # What is not exact keeps the upper eight bits of the pattern below its sign.
        assert np.array_equal(values.view(np.uint16) >> 7, true[row, ids].view(np.uint16) >> 7)


def test_all_entries_are_exact_where_that_is_near_enough():
    codec = LogitCodec(1000)
    logits = gauss(8, 3.0, vocabulary=1000)
    top = codec.decode(codec.encode(logits))
    true = codec.log_probs(logits)
    assert np.array_equal(top.exact, top.counts) and (top.counts > 40).all()
    assert (kl_divergence(true, top.full()) <= kl_divergence(true, plain_top_k(true))).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_packing_what_was_decoded_gives_the_same_bytes(family):
    codec = LogitCodec(V)
    packed = codec.encode(FAMILIES[family]()[:4])
    assert same_bytes(codec.pack(codec.decode(packed)), packed)


logits_arrays = st.tuples(st.integers(1, 4), st.integers(2, 260)).flatmap(
    lambda shape: arrays(
        np.float32,
        shape,
        # Few distinct values, so that ties are common; minus infinity is a token that is ruled out.
        elements=st.one_of(
            st.sampled_from([0.0, 1.0, -3.5, 40.0, -1e9, -np.inf]), st.floats(-90, 90, width=32, allow_nan=False)
        ),
    )
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(logits_arrays, st.sampled_from([16, 40, 114, 255]))
def test_round_trip_of_any_logits(logits, cap):
    logits[:, 0] = np.where(np.isneginf(logits).all(1), 0, logits[:, 0])
    codec = LogitCodec(logits.shape[1], rule=Rule(cap=cap))
    packed = codec.encode(logits)
    top = codec.decode(packed)
    assert packed.lengths.astype(int).max() + 1 <= cap
    assert same_bytes(codec.pack(top), packed)
    true = codec.log_probs(logits).astype(np.float16)
    rows, places = np.nonzero(top.exact_entries)
    assert np.array_equal(top.log_probs[rows, places], true[rows, top.ids[rows, places]])
    full = top.full()
    assert np.allclose(np.exp(full.astype(np.float64)).sum(1), 1, atol=1e-5)
    assert (top.counts >= 1).all() and not np.isnan(full).any()


def test_a_certain_token_costs_next_to_nothing():
    logits = np.full((2, V), -np.inf, np.float32)
    logits[0, 17], logits[1, V - 1] = 3.0, -1e30
    codec = LogitCodec(V)
    packed = codec.encode(logits)
    top = codec.decode(packed)
    assert packed.nbytes <= 2 * 13
    assert top.ids.tolist() == [[17], [V - 1]] and top.log_probs.tolist() == [[0.0], [0.0]]
    assert np.isneginf(top.tails).all()
    full = top.full()
    assert full[0, 17] == full[1, V - 1] == 0 and np.isneginf(full).sum() == 2 * (V - 1)


def test_what_is_all_but_impossible_stays_possible():
    logits = np.full((1, V), -150.0, np.float32)
    logits[0, 3] = 0
    codec = LogitCodec(V)
    full = codec.decode(codec.encode(logits)).full()
    assert np.isfinite(full).all() and full[0, 3] == 0 and full[0, 4] < -100


def test_equal_logits_give_a_uniform_distribution():
    codec = LogitCodec(V)
    full = codec.decode(codec.encode(np.zeros((1, V), np.float32))).full()
    assert np.abs(full + np.log(V)).max() < 0.005  # an fp16 of this size is 0.0078 from the next


def test_a_small_vocabulary_is_kept_whole():
    logits = gauss(6, 1.0, vocabulary=12)
    codec = LogitCodec(12, rule=Rule(target_kl=0))
    top = codec.decode(codec.encode(logits))
    assert (top.counts >= 11).all() and np.array_equal(top.exact, top.counts)  # a tail of one token is that token
    assert kl_divergence(codec.log_probs(logits), top.full()).max() < 1e-6


@pytest.mark.parametrize("vocabulary", [2, 256, 4096, 262_144])
def test_vocabularies_from_two_to_256k(vocabulary):
    codec = LogitCodec(vocabulary)
    logits = gauss(3, 3.0, vocabulary)
    packed = codec.encode(logits)
    assert packed.nbytes <= CAP * 3
    true = codec.log_probs(logits)
    assert (kl_divergence(true, codec.decode(packed).full()) < 1.05 * np.log(vocabulary)).all()
    if vocabulary > 50:  # at 256k an id takes three more bits than at 32k, and without a shared tail it is a draw
        slack = 1.01 if vocabulary > 200_000 else 1
        plain = kl_divergence(true, plain_top_k(true)).mean()
        assert kl_divergence(true, codec.decode(packed).full()).mean() < slack * plain


def test_temperature_acts_on_the_whole_distribution():
    logits = gauss(4, 2.0, vocabulary=10)
    codec = LogitCodec(10, rule=Rule(target_kl=0))
    top = codec.decode(codec.encode(logits))
    for temperature in (0.5, 1.0, 4.0):
        expected = torch.log_softmax(torch.from_numpy(logits) / temperature, -1).numpy()
        assert np.allclose(top.full(temperature), expected, atol=0.02)
    with pytest.raises(UsageError, match="temperature 0"):
        top.full(0)


def test_a_shared_tail_is_nearer_on_text_that_it_has_not_seen():
    text = zipf(400, 1.0, noise=1.5, permuted=False, vocabulary=4000)
    seen, unseen = text[:300], text[300:]
    plain = LogitCodec(4000)
    average = TailAverage(4000)
    for start in range(0, len(seen), 100):
        average.add(plain.log_probs(seen[start : start + 100]))
    shaped = LogitCodec(4000, average.shape())
    true = plain.log_probs(unseen)
    uniform_kl = kl_divergence(true, plain.decode(plain.encode(unseen)).full()).mean()
    shaped_kl = kl_divergence(true, shaped.decode(shaped.encode(unseen)).full()).mean()
    assert shaped_kl < 0.8 * uniform_kl
    assert average.shape().nbytes < 1.01 * 4000
    assert shaped.decode(shaped.encode(unseen)).shaped.mean() > 0.9


def test_a_tail_shape_that_misleads_is_not_used():
    average = TailAverage(4000)
    average.add(LogitCodec(4000).log_probs(zipf(64, 1.0, permuted=False, vocabulary=4000)))
    backwards = zipf(8, 1.0, permuted=False, vocabulary=4000)[:, ::-1]
    codec = LogitCodec(4000, average.shape())
    assert not codec.decode(codec.encode(backwards)).shaped.any()


def test_an_average_of_nothing_is_uniform():
    shape = TailAverage(100).shape()
    assert (shape.levels == 0).all() and shape.step == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_torch_tensors_are_taken_as_they_are(dtype):
    logits = torch.from_numpy(gauss(3, 2.0, vocabulary=500)).to(dtype).requires_grad_()
    codec = LogitCodec(500)
    assert same_bytes(codec.encode(logits), codec.encode(logits.detach().float().numpy()))


def test_no_tokens_are_no_bytes():
    codec = LogitCodec(50)
    packed = codec.encode(np.zeros((0, 50), np.float32))
    assert packed.nbytes == 0 and len(codec.decode(packed)) == 0 and codec.decode(packed).full().shape == (0, 50)


@pytest.mark.parametrize(
    ("value", "said"), [(np.nan, "token 1 of 3 has a NaN"), (np.inf, "infinite"), (-np.inf, "no finite logit")]
)
def test_logits_that_are_no_distribution_are_named(value, said):
    logits = np.zeros((3, 20), np.float32)
    logits[1] = value
    with pytest.raises(DataError, match=said):
        LogitCodec(20).encode(logits)


def test_one_nan_among_many_logits_is_found():
    logits = gauss(3, 1.0, vocabulary=500)
    logits[2, 321] = np.nan
    with pytest.raises(DataError, match="token 2 of 3 has a NaN"):
        LogitCodec(500).encode(logits)


def test_what_does_not_fit_is_refused():
    with pytest.raises(DataError, match="expected \\(tokens, 20\\)"):
        LogitCodec(20).encode(np.zeros((3, 21), np.float32))
    with pytest.raises(UsageError, match="out of range"):
        LogitCodec(300_000)
    with pytest.raises(UsageError, match="cap=4"):
        Rule(cap=4)
    with pytest.raises(UsageError, match="target_kl nan"):
        Rule(target_kl=float("nan"))
    with pytest.raises(DataError, match="tail shape is of 10"):
        LogitCodec(20, TailShape(np.zeros(10, np.uint8), 0.1))
    with pytest.raises(DataError, match="uint8 levels"):
        TailShape(np.zeros(10), 0.1)
