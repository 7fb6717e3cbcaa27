"""Rows from the signals of a real teacher: its tokens, its distributions, its coordinates, stored once."""

from __future__ import annotations

import copy
import random
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load, save

from nexus_core.distill import rows as module
from nexus_core.distill.align import Aligner, AlignSettings
from nexus_core.distill.anchoring import ActivationAnchoringLoss, AnchorSettings
from nexus_core.distill.attention_targets import map_heads
from nexus_core.distill.batches import collate
from nexus_core.distill.losses import OutputLoss
from nexus_core.distill.rows import (
    Room,
    RowBuilder,
    StoredRows,
    build_side_by_side,
    check_tokenizer,
    gold_rows,
    prompt_ids,
)
from nexus_core.distill.spaces import anchor_spaces
from nexus_core.distill.vocabulary import load_vocabulary, read_vocabulary
from nexus_core.errors import DataError, ModelError
from nexus_core.hf import load_hf_teacher
from nexus_core.profiling.cache import SignalCache
from nexus_core.profiling.measure import spectra, tokenizer_facts
from nexus_core.profiling.model import BlockProfile, CapabilityProfile
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.signals import Collector
from nexus_core.profiling.sites import find_sites
from nexus_core.student.arch import Site
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

ZOO = Path(__file__).parents[2] / "plugins/teachers/zoo/src/nexus_teacher_zoo/weights"
ROOM = Room(context=256, answer=32)
ALIGN = AlignSettings(most=48, least=1e-5)
SITES = (Site(0, 8, "model.layers.1"), Site(2, 12, "model.layers.2"))  # the second has four free channels
FULL = OutputLoss(1.0, 1.0, 1.0, 0.0, 0.0)
ANCHOR = AnchorSettings(10.0, 1.0, 1.0, 0, 0.3, 3.0)


class Plates(CapabilityMetric):
    """Questions of the kind that zoo-reasoning was trained on; what it answers is its own affair."""

    name = "plates"
    metric = "exact_match"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=32, batch_size=16)

    def samples(self, request):
        rng = random.Random(f"{request.seed}-{request.split}")
        for i in range(request.n or 1000):
            a, b = rng.randrange(10, 60), rng.randrange(2, 9)
            prompt = f"Hugo starts with {a} plates. He buys {b} more and gives {b + 1} away. How many are left?"
            yield Sample(str(i), prompt, f"{a}+{b}={a + b}\n{a + b}-{b + 1}={a - 1}\n#### {a - 1}")

    def score(self, sample, output):
        return float(output == sample.target)


@pytest.fixture(scope="module")
def teacher():
    path = ZOO / "reasoning"
    return load_hf_teacher(
        ModelSource(path, "zoo-reasoning"), LoadOptions(), Detection(Category.TRANSFORMERS, "llama", 1, "")
    )


@pytest.fixture(scope="module")
def profile(teacher):
    metric = Plates()
    samples = list(metric.samples(SampleRequest(Split.TRAIN, 32)))
    scorer = Scorer(teacher, metric, samples)
    sites = [s for s in find_sites(teacher, teacher.encode(samples[:2])) if s.name in {s.teacher_block for s in SITES}]
    found = spectra(scorer, sites, range(32), 8, False)
    blocks = tuple(
        BlockProfile(
            s.site.name,
            s.site.index,
            s.site.width,
            "tokens",
            "answer",
            s.pca,
            tuple(range(8)),
            np.zeros((0, 8)),
            (),
            (),
        )
        for s in found
    )
    facts = tokenizer_facts(teacher.processor)
    return CapabilityProfile(
        "zoo-reasoning", "w", "plates", "exact_match", Direction.HIGHER, 1.0, 32, 1, 0.0, blocks, tokenizer=facts
    )


@pytest.fixture(scope="module")
def cache(teacher, profile, tmp_path_factory):
    cache = SignalCache(tmp_path_factory.mktemp("run") / "signals")
    heads = {"model.layers.1": (0, 2)}
    assert Collector(teacher, Plates(), profile, cache, heads=heads).collect(16, 42) == 16
    return cache


@pytest.fixture(scope="module")
def signals(cache):
    reader = cache.read(cache.entries()[0])
    return [reader.sample(i) for i in range(len(reader))]


@pytest.fixture(scope="module")
def own(teacher):
    return read_vocabulary(teacher.processor)


@pytest.fixture(scope="module")
def backbone():
    return load_vocabulary(ZOO / "backbone")


def builder(own, student, profile, heads=None, settings=ALIGN, room=ROOM, sites=SITES):
    return RowBuilder(Aligner(own, student, settings), anchor_spaces(sites, profile, {}), room, heads)


def test_a_student_that_is_the_teacher_has_no_loss_at_all(teacher, profile, signals, own):
    """The signals of a real teacher, and the teacher itself as the student: every term is what compression costs."""
    rows = builder(own, own, profile).rows(signals)
    batch = collate(rows)
    assert batch.kl_has.all() and all(has.all() for _, has in batch.anchors.values())
    seen = {}
    hooks = [
        teacher.blocks[site.teacher_block].register_forward_hook(
            lambda m, a, out, b=site.block: seen.update({b: out[0] if isinstance(out, tuple) else out})
        )
        for site in SITES
    ]
    with torch.inference_mode():
        logits = teacher.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]
    for hook in hooks:
        hook.remove()
    terms = FULL(logits, batch)
    assert abs(float(terms.ce)) < 1e-3 and abs(float(terms.kl)) < 1e-3
    spaces = anchor_spaces(SITES, profile, {})
    blocks = {block.block: block.pca for block in profile.blocks}
    z = {
        space.block: torch.nn.functional.pad(
            torch.from_numpy(space.whitened(blocks[space.teacher_block].coordinates(seen[space.block][batch.answer]))),
            (0, 4),  # free channels
        )
        for space in spaces
    }
    anchored = ActivationAnchoringLoss(spaces, ANCHOR)(z, batch, 0)
    assert float(anchored.total) < 1e-5 and max(map(float, anchored.errors.values())) < 1e-6
    wrong = {block: torch.zeros_like(value) for block, value in z.items()}
    assert 0.5 < float(ActivationAnchoringLoss(spaces, ANCHOR)(wrong, batch, 0).total) < 2  # 1: only the mean is known


def test_a_student_with_another_tokenizer_reads_the_same_texts(teacher, profile, signals, own, backbone):
    rows = builder(own, backbone, profile).rows(signals)
    for row, signal in zip(rows, signals, strict=True):
        assert row.digest == signal.digest
        assert backbone.text(row.answer_ids.tolist()).decode() == signal.output
        assert row.answer_ids[-1] == backbone.end
        text = backbone.tokenizer.decode(row.prompt_ids.tolist())
        assert text == f"<|user|>{signal.prompt}<|assistant|>"
        assert row.kl.has.mean() > 0.8 and np.abs(row.kl.mass()[row.kl.has] - 1).max() < 1e-6
        assert row.entropy[row.kl.has].max() < 3 and (row.entropy[~row.kl.has] == 0).all()
        starts = np.cumsum([0, *(len(backbone.bytes_of(int(i)) or b"") for i in row.answer_ids[:-1])])
        stored, space = signal.coefficients["model.layers.1"].array(), anchor_spaces(SITES, profile, {})[0]
        for j, start in enumerate(starts):
            same = np.flatnonzero(signal.offsets[:, 0] == start)
            assert row.anchors[0].has[j] == bool(len(same))
            if len(same):
                expected = stored[same[0]] / np.sqrt(space.variance)
                assert np.allclose(row.anchors[0].values[j], expected, atol=1e-5)
            else:
                assert not row.anchors[0].values[j].any()
    # The teacher is sure, and the student is told so in its own tokens: the label is the likeliest token nearly always.
    first = np.concatenate([row.kl.ids[row.kl.has, 0] == row.answer_ids[row.kl.has] for row in rows])
    assert first.mean() > 0.95


def test_prompts_are_what_the_student_sees_at_inference(teacher, own, signals):
    prompts = [signal.prompt for signal in signals]
    expected = teacher._rows([Sample("", prompt, "") for prompt in prompts], room=32)
    assert [ids.tolist() for ids in prompt_ids(own, prompts, ROOM)] == expected
    short = Room(context=24, answer=8)
    assert [ids.tolist() for ids in prompt_ids(own, prompts, short)] == [ids[-16:] for ids in expected]
    with pytest.raises(DataError, match="has no tokens"):
        bare = replace(own, tokenizer=_without_template(own.tokenizer))
        prompt_ids(bare, [""], ROOM)
    broken = _without_template(own.tokenizer)
    broken.chat_template = "{{ messages[7].content }}"
    with pytest.raises(ModelError, match="cannot be rendered"):
        prompt_ids(replace(own, tokenizer=broken), ["x"], ROOM)


def _without_template(tokenizer):
    other = copy.deepcopy(tokenizer)
    other.chat_template = None
    return other


def test_what_does_not_fit_the_context_is_cut(profile, signals, own):
    rows = builder(own, own, profile, room=Room(context=20, answer=6)).rows(signals)
    full = builder(own, own, profile).rows(signals)
    for row, whole in zip(rows, full, strict=True):
        assert len(row) <= 20 and len(row.prompt_ids) == 14
        n = len(row.answer_ids)
        assert n == min(7, len(whole.answer_ids)) and row.answer_ids.tolist() == whole.answer_ids[:n].tolist()
        assert row.anchors[0].values.tolist() == whole.anchors[0].values[:n].tolist()


def test_the_control_without_a_teacher_has_answers_and_nothing_else(own, signals):
    samples = [Sample("1", signals[0].prompt, "10+3=13\n#### 13")]
    (row,) = gold_rows(own, samples, ROOM)
    assert row.prompt_ids.tolist() == prompt_ids(own, [signals[0].prompt], ROOM)[0].tolist()
    assert row.answer_ids.tolist() == [*own.encode(["10+3=13\n#### 13"])[0], own.end]
    assert row.digest == samples[0].digest and not row.kl.has.any() and not row.anchors and not row.entropy.any()
    terms = FULL(torch.zeros(len(row.answer_ids), 704), collate([row]))
    assert float(terms.kl) == 0 and float(terms.ce) == pytest.approx(np.log(704), rel=1e-4)


def same(one, other):
    for a, b in zip(one, other, strict=True):
        assert a.digest == b.digest
        for x, y in (
            (a.prompt_ids, b.prompt_ids),
            (a.answer_ids, b.answer_ids),
            (a.entropy, b.entropy),
            (a.kl.rest, b.kl.rest),
            (a.kl.has, b.kl.has),
        ):
            assert x.dtype == y.dtype and np.array_equal(x, y)
        width = a.kl.ids.shape[1]
        assert np.array_equal(a.kl.ids, b.kl.ids[:, :width]) and (b.kl.ids[:, width:] == -1).all()
        assert (
            np.array_equal(a.kl.log_probs, b.kl.log_probs[:, :width]) and np.isneginf(b.kl.log_probs[:, width:]).all()
        )
        assert a.anchors.keys() == b.anchors.keys()
        for held, kept in ((a.anchors, b.anchors), (a.attention, b.attention)):
            for block in held:
                assert np.array_equal(held[block].values, kept[block].values)
                assert np.array_equal(held[block].has, kept[block].has)


def test_rows_are_built_once_and_again_when_anything_changes(cache, profile, own, backbone, tmp_path):
    path = tmp_path / "distill/plates/rows.safetensors"
    heads = map_heads(SITES, {"model.layers.1": (0, 2)}, 4)
    first = StoredRows(path, cache, profile, builder(own, backbone, profile, heads)).read()
    assert len(first) == 16 and any(row.attention for row in first)
    content, time = path.read_bytes(), path.stat().st_mtime_ns
    same(first, StoredRows(path, cache, profile, builder(own, backbone, profile, heads)).read())
    assert path.stat().st_mtime_ns == time
    others = [
        builder(own, own, profile, heads),
        builder(own, own, profile),
        builder(own, own, profile, settings=AlignSettings(3, 1e-5)),
        builder(own, own, profile, room=Room(128, 32)),
        builder(own, own, profile, sites=SITES[:1]),
    ]
    seen = {content}
    for other in others:
        rows = StoredRows(path, cache, profile, other).read()
        assert path.read_bytes() not in seen
        seen.add(path.read_bytes())
        same(rows, StoredRows(path, cache, profile, other).read())
    StoredRows(path, cache, profile, builder(own, backbone, profile, heads)).read()
    assert path.read_bytes() == content  # the same input, the same bytes


def test_rows_that_other_processes_build_are_the_same(cache, profile, own, backbone, tmp_path, monkeypatch):
    builders = [
        builder(own, own, profile),
        builder(own, backbone, profile),
        builder(own, own, profile, sites=SITES[:1]),
    ]
    here = [StoredRows(tmp_path / "here" / str(i), cache, profile, build) for i, build in enumerate(builders)]
    there = [StoredRows(tmp_path / "there" / str(i), cache, profile, build) for i, build in enumerate(builders)]
    build_side_by_side(there, 2)
    assert not (tmp_path / "there").exists()  # so few are not worth a process
    monkeypatch.setattr(module, "WORTH_A_PROCESS", 1)
    here[0].build()
    there[0].build()
    before = there[0].path.stat().st_mtime_ns
    build_side_by_side(there, 2)
    assert [one.tokens for one in there] == [0, 0, 0]
    assert there[0].path.stat().st_mtime_ns == before
    for one, other in zip(here, there, strict=True):
        one.build()
        assert one.path.read_bytes() == other.path.read_bytes()


def test_more_signals_mean_more_rows(teacher, cache, profile, own, tmp_path):
    more = SignalCache(tmp_path / "signals")
    shutil.copytree(cache.directory, more.directory)
    path, build = tmp_path / "rows.safetensors", builder(own, own, profile)
    assert len(StoredRows(path, more, profile, build).read()) == 16
    Collector(teacher, Plates(), profile, more).collect(3, 7)
    assert len(StoredRows(path, more, profile, build).read()) == 19
    with pytest.raises(DataError, match="no answers of zoo-reasoning/knitting"):
        StoredRows(path, more, replace(profile, capability="knitting"), build).read()


def test_damaged_rows_are_refused_by_name(cache, profile, own, tmp_path):
    path, build = tmp_path / "rows.safetensors", builder(own, own, profile)
    StoredRows(path, cache, profile, build).read()
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="is no readable safetensors file"):
        StoredRows(path, cache, profile, build).read()
    path.write_bytes(b"")
    with pytest.raises(DataError, match="is no readable safetensors file"):
        StoredRows(path, cache, profile, build).read()
    arrays = load(content)
    arrays["sizes"] = arrays["sizes"] + 1
    path.write_bytes(content)
    with safe_open(path, "numpy") as file:
        key = file.metadata()["key"]
    path.write_bytes(save(arrays, {"key": key}))
    with pytest.raises(DataError, match="does not hold training rows"):
        StoredRows(path, cache, profile, build).read()


def test_signals_of_another_profile_and_another_tokenizer_are_refused(profile, signals, own, backbone):
    check_tokenizer(profile, own)
    with pytest.raises(DataError, match="not the one it was profiled with"):
        check_tokenizer(profile, backbone)
    missing = [replace(signal, coefficients={}) for signal in signals]
    with pytest.raises(DataError, match=r"coordinates of model\.layers\.1: none"):
        builder(own, own, profile).rows(missing)
    narrow = replace(
        signals[0].coefficients["model.layers.1"], values=signals[0].coefficients["model.layers.1"].values[:, :3]
    )
    with pytest.raises(DataError, match="component 7"):
        builder(own, own, profile).rows([replace(signals[0], coefficients={"model.layers.1": narrow})])
