"""One sample's signal: offsets, coefficients, and the refusal of anything raw."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from nexus_core.errors import DataError
from nexus_core.profiling.cache import Coefficients, LogitCodec, TeacherSignal, byte_offsets


def signal(**changes) -> TeacherSignal:
    codec = LogitCodec(40)
    fields = {
        "digest": "d" * 64,
        "prompt": "2 + 2?",
        "output": "vier €",
        "token_ids": np.array([5, 9, 2], np.int32),
        "offsets": np.array([[0, 4], [4, 8], [8, 8]], np.int32),
        "logits": codec.encode(np.random.default_rng(0).normal(size=(3, 40))),
        "codec": codec,
    }
    return TeacherSignal(**fields | changes)


def test_characters_become_bytes():
    text = "aé€😀b"
    spans = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 5)]
    offsets = byte_offsets(text, spans)
    pieces = [text.encode()[start:end].decode() for start, end in offsets]
    assert pieces == ["a", "é", "€", "😀", "b", ""] and offsets.dtype == np.int32
    with pytest.raises(DataError, match="outside its text of 5"):
        byte_offsets(text, [(4, 6)])


def test_a_signal_gives_its_distributions():
    assert len(signal().top_k()) == 3
    assert signal(logits=None, codec=None).top_k() is None


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_coefficients_come_back_to_the_stored_precision(dtype):
    exact = np.random.default_rng(1).normal(size=(30, 8)).astype(np.float32) * np.logspace(-3, 3, 8, dtype=np.float32)
    stored = Coefficients.of(torch.from_numpy(exact), dim=64, dtype=dtype)
    step = np.abs(exact).max(0) * (2**-10 if dtype == "float16" else 1 / 254 + 1e-6)
    assert (np.abs(stored.array() - exact) <= step).all()
    again = Coefficients.of(stored.array(), dim=64, dtype=dtype)
    assert np.array_equal(again.values, stored.values)


def test_a_component_that_is_always_zero_stays_zero():
    assert (Coefficients.of(np.zeros((4, 3)), dim=9, dtype="int8").array() == 0).all()


@pytest.mark.parametrize("k", [64, 65])
def test_raw_activations_are_refused(k):
    with pytest.raises(DataError, match=f"{k} coefficients for a block of width 64 would store its raw activations"):
        Coefficients.of(np.ones((3, k)), dim=64)
    assert Coefficients.of(np.ones((3, k)), dim=64, reason="a width of 64 is all intrinsic").values.shape == (3, k)


@pytest.mark.parametrize(
    ("array", "options", "said"),
    [
        (np.full((2, 3), np.nan), {}, "not a finite matrix"),
        (np.ones(3), {}, "not a finite matrix"),
        (np.full((2, 3), 1e6), {}, "too large for float16"),
        (np.ones((2, 3)), {"dtype": "float8"}, "float8"),
        (np.ones((2, 3)), {"pooled": True}, "have 2 rows"),
    ],
)
def test_coefficients_that_cannot_be_stored_are_refused(array, options, said):
    with pytest.raises(DataError, match=said):
        Coefficients.of(array, dim=9, **options)
    assert np.isfinite(Coefficients.of(np.full((2, 3), 1e6), dim=9, dtype="int8").array()).all()


def test_int8_without_scales_is_refused():
    with pytest.raises(DataError, match="one scale per component"):
        Coefficients(np.zeros((2, 3), np.int8), dim=9)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"offsets": np.array([[0, 4], [4, 9], [9, 9]], np.int32)}, "outside the 8 bytes"),
        ({"offsets": np.array([[4, 8], [0, 4], [8, 8]], np.int32)}, "out of order"),
        ({"offsets": np.array([[0, 4]], np.int32)}, "for 3 tokens"),
        ({"token_ids": np.array([1.0, 2, 3])}, "float64"),
        ({"logits": None}, "come with their codec"),
        ({"logits": LogitCodec(40).encode(np.zeros((2, 40)))}, "logits must be of 3 tokens"),
        ({"coefficients": {"layers.1": Coefficients.of(np.ones((2, 3)), 9)}}, "layers.1 has coefficients of 2 tokens"),
        ({"arrays": {"hidden_states": np.ones((3, 64), np.float32)}}, '"hidden_states" is not kept'),
        ({"arrays": {"mel_frames": np.ones((3, 4))}}, "float64"),
        ({"arrays": {"mel_frames": np.full((3, 4), np.inf, np.float32)}}, "not finite"),
    ],
)
def test_a_signal_that_contradicts_itself_is_refused(changes, said):
    with pytest.raises(DataError, match=said):
        replace(signal(), **changes)
