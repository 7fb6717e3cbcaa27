"""The signals of a teacher: right tokens, right logits, right coordinates, and resumable unit by unit."""

from __future__ import annotations

from dataclasses import replace

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


@pytest.fixture
def drill(lookup):
    class Drill(type(lookup)):
        """The reference goes on where the teacher would end, and longer than it may write."""

        drill = "drill"

        def samples(self, request):
            for sample in super().samples(request):
                yield replace(sample, target=f"{sample.target}!?abc") if request.data == "drill" else sample

    return Drill()


def test_a_drill_is_read_with_the_teacher_not_written_by_it(one_planted, profile, collector, drill):
    drilled = replace(collector, metric=drill)
    assert (drilled.drill(20, seed=42), drilled.drill(20, seed=42)) == (20, 0)
    said = list(drilled.cache.iterate(seed=42))
    assert len(said) == 20
    for signal in said[:4]:
        assert signal.output.endswith("!?abc") and signal.offsets.tolist()[-1] == [6, 6]  # with the end token
        assert len(signal.token_ids) > drill.options.max_new_tokens
        batch, mask = one_planted.teacher.encode_answers(
            [Sample("0", signal.prompt, "")],
            [signal.token_ids.tolist()],
            replace(drill.options, max_new_tokens=len(signal.token_ids)),
        )
        truth = torch.log_softmax(one_planted.teacher.forward(batch).logits[mask], -1).exp().numpy()
        assert np.abs(np.exp(signal.top_k().full()) - truth).max() < 1e-2
        assert signal.coefficients[profile.blocks[0].block].values.shape[0] == 7
    assert drilled.collect(20, seed=42) == 20, "of the same prompts, the teacher's own answers are other signals"


def test_a_capability_without_a_drill_has_none(collector):
    assert collector.drill(20, seed=42) == 0
