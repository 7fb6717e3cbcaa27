"""The signals of a teacher: right tokens, right logits, right coordinates, and resumable unit by unit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nexus_core.plugins import Plugins
from nexus_core.profiling.cache import SignalCache
from nexus_core.profiling.run import Profiler, ProfileSettings
from nexus_core.profiling.signals import Collector
from nexus_core.types import Contract, Direction, Sample, Thresholds

CONTRACT = Contract("lookup", "pack", "exact_match", Direction.HIGHER, 0.97, None, 1, 512, Thresholds(0.02, 0.005))
SETTINGS = ProfileSettings(60, 20, 20, 1, 4, 16, 16, 0.01)


@pytest.fixture(scope="module")
def profile(one_planted, lookup):
    return Profiler(Plugins([]), one_planted.teacher, lookup, CONTRACT, SETTINGS).run()[0]


@pytest.fixture
def collector(one_planted, lookup, profile, tmp_path):
    return Collector(one_planted.teacher, lookup, profile, SignalCache(tmp_path / "signals"))


def test_signals_are_what_the_teacher_said(one_planted, lookup, profile, collector):
    assert collector.collect(70, seed=42) == 70
    signals = list(collector.cache.iterate(seed=42))
    assert len(signals) == 70
    teacher, block = one_planted.teacher, profile.blocks[0]
    for signal in signals[:8]:
        assert signal.output in "abcdefghij"
        assert teacher.decode_tokens([signal.token_ids.tolist()], lookup.options) == [signal.output]
        assert signal.offsets.tolist() == [[0, 1], [1, 1]]  # the letter, and the end token without text
        sample = Sample("0", signal.prompt, "")
        batch, mask = teacher.encode_answers([sample], [signal.token_ids.tolist()], lookup.options)
        hidden = []
        handle = teacher.blocks[block.block].register_forward_hook(lambda m, a, out, seen=hidden: seen.append(out))
        truth = torch.log_softmax(teacher.forward(batch).logits[mask], -1).numpy()
        handle.remove()
        kept = signal.top_k()
        assert kept.ids[np.arange(2), kept.log_probs.argmax(1)].tolist() == truth.argmax(1).tolist()
        assert np.abs(np.exp(kept.full()) - np.exp(truth)).max() < 1e-2
        expected = block.pca.coordinates(hidden[0][mask])
        assert np.allclose(signal.coefficients[block.block].array(), expected, atol=2e-2)


def test_finished_units_are_not_asked_for_again(collector):
    assert collector.collect(64, seed=42) == 64
    assert collector.collect(64, seed=42) == 0
    assert collector.collect(100, seed=42) == 36


def test_train_samples_only(lookup, collector, verify_samples):
    collector.collect(64, seed=42)
    seen = {signal.digest for signal in collector.cache.iterate(seed=42)}
    assert not seen & {sample.digest for sample in verify_samples}
