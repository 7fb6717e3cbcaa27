"""The shortcut is exact: scores of a forward and a continued generation equal those of generating everything."""

import random

import numpy as np
import pytest

from nexus_core.hf import load_hf_teacher
from nexus_core.profiling.interventions import Bypass, Positions, Project, Silence, applied
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import find_sites
from nexus_core.testing import tiny
from nexus_core.types import (
    CapabilityMetric,
    Category,
    Detection,
    Direction,
    GenerateOptions,
    LoadOptions,
    ModelSource,
    Sample,
    SampleRequest,
    Split,
)


class Written(CapabilityMetric):
    """A number that depends on every character of the output, so that no two different answers pass for one."""

    name = "written"
    metric = "fingerprint"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=12, batch_size=7)

    def samples(self, request):
        rng = random.Random(request.seed)
        for i in range(request.n):
            yield Sample(str(i), "".join(rng.choices("abcdefgh ", k=rng.randint(3, 20))), "")

    def score(self, sample, output):
        return float(random.Random(output).random())


@pytest.fixture(scope="module", params=["llama", "gpt_neox", "gpt2"])
def teacher(request, tmp_path_factory):
    extra = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128} if request.param == "gpt2" else {}
    path = tiny.save_causal_lm(tmp_path_factory.mktemp("model"), request.param, **extra)
    detection = Detection(Category.TRANSFORMERS, request.param, 1.0, "test")
    return load_hf_teacher(ModelSource(path), LoadOptions(), detection)


@pytest.fixture(scope="module")
def scorer(teacher):
    metric = Written()
    return Scorer(teacher, metric, list(metric.samples(SampleRequest(Split.PROFILE, 24))))


@pytest.fixture(scope="module")
def cases(teacher, scorer):
    import torch

    sites = find_sites(teacher, teacher.encode(scorer.samples[:2]))
    assert len(sites) == 2
    assert all(site.heads[0].groups == 4 and site.channels is not None for site in sites)
    basis = torch.linalg.qr(torch.randn(sites[0].width, 6, generator=torch.Generator().manual_seed(1)))[0].T
    mean = torch.zeros(sites[0].width)
    return [
        Bypass(sites[0]),
        Silence(sites[1], sites[1].heads[0], 2, 3),
        Silence(sites[0], sites[0].channels, 0, 16),
        Project(sites[1], basis, mean),
        Project(sites[0], basis, mean, keep=True),
    ]


def generated_whole(scorer, case):
    """The slow way: generate every answer with the intervention on the whole batch."""
    samples, options, positions = scorer.samples, scorer.metric.options, Positions()
    outputs = []
    for sample in samples:
        with applied([(slice(0, 1), case)], positions):
            if isinstance(case, Project):  # its positions are the last of the prompt, then every new token
                _, mask = scorer.teacher.encode_answers([sample], [[]], options)
                mask[:, -1] = True
                positions.mask = mask
            outputs.append(scorer.teacher.decode_tokens(scorer.teacher.generate_tokens([sample], options), options)[0])
    return np.array(scorer.metric.score_all(samples, outputs))


def test_every_intervention_scores_as_when_everything_is_generated(scorer, cases):
    fast = scorer.scores(cases, range(len(scorer.samples)))
    for case, row in zip(cases, fast, strict=True):
        slow = generated_whole(scorer, case)
        assert (slow != scorer.baseline.scores).any(), f"{case} changes nothing: the test would prove nothing"
        np.testing.assert_array_equal(row, slow)


def test_the_untouched_teacher_scores_its_baseline_without_generating(scorer):
    before = scorer.generated
    np.testing.assert_array_equal(scorer.scores([None], range(24))[0], scorer.baseline.scores)
    assert scorer.generated == before


def test_subsets_keep_their_order(scorer, cases):
    whole = scorer.scores(cases[:2], range(24))
    some = [17, 3, 11]
    np.testing.assert_array_equal(scorer.scores(cases[:2], some), whole[:, some])


def test_interventions_leave_no_trace(teacher, scorer, cases):
    batch = teacher.encode(scorer.samples[:4])
    before = teacher.forward(batch).logits
    scorer.scores(cases, range(8))
    with pytest.raises(KeyboardInterrupt), applied([(slice(0, 4), case) for case in cases], Positions()):
        raise KeyboardInterrupt
    assert (teacher.forward(batch).logits == before).all()
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in teacher.model.modules()]
    assert sum(hooks) == 0
