"""Attention summaries in units: small, whole, optional, and never a map."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nexus_core.errors import DataError
from nexus_core.profiling.cache import AttentionSummary, SignalCache, TeacherSignal, UnitKey
from nexus_core.profiling.cache.unit import UnitReader, unit_bytes


def summary(tokens: int = 3, heads: tuple[int, ...] = (2, 0), start: int = 0) -> AttentionSummary:
    generator = np.random.default_rng(tokens)
    starts = start + generator.integers(0, 8, (tokens, len(heads)))
    spans = np.stack([starts, starts + generator.integers(0, 3, starts.shape)], -1)
    return AttentionSummary.of(heads, spans, generator.random(starts.shape))


def signal(name: str = "d", tokens: int = 3, **changes) -> TeacherSignal:
    fields = {
        "digest": name * 64,
        "prompt": "2 + 2?",
        "output": "vier €",
        "token_ids": np.arange(tokens, dtype=np.int32),
        "offsets": np.zeros((tokens, 2), np.int32),
        "attention": {"layers.3": summary(tokens), "layers.1": summary(tokens, (1,))},
    }
    return TeacherSignal(**fields | changes)


def test_units_give_summaries_back_to_the_bit(tmp_path):
    chunk = [signal("a", 3), signal("b", 0), signal("c", 7)]
    reader = UnitReader(unit_bytes("k", chunk), "here")
    for i, one in enumerate(chunk):
        found = reader.sample(i).attention
        assert sorted(found) == ["layers.1", "layers.3"]
        for block, of in one.attention.items():
            assert found[block].heads == of.heads
            for part in ("starts", "sizes", "mass"):
                assert np.array_equal(getattr(found[block], part), getattr(of, part))
                assert getattr(found[block], part).dtype == getattr(of, part).dtype


def test_a_unit_without_summaries_is_as_units_always_were(tmp_path):
    chunk = [signal("a", attention={}), signal("b", attention={})]
    reader = UnitReader(unit_bytes("k", chunk), "here")
    assert set(reader._meta) == {"unit", "blocks", "vocabulary", "step"}
    assert set(reader._arrays) == {"digests", "text", "text_sizes", "tokens", "token_ids", "offsets", "meta"}
    assert reader.sample(1).attention == {}


def test_an_entry_from_before_there_were_summaries_is_read(tmp_path):
    cache = SignalCache(tmp_path)
    key = UnitKey("zoo", "w", "math", "train", ("a" * 64,))
    cache.write(key, [signal("a", attention={})])
    path = tmp_path / f"{key.digest}.json"
    row = json.loads(path.read_text())
    assert row["sizes"].pop("attention_bytes") == 0
    path.write_text(json.dumps(row))
    assert cache.has(key) and cache.verify() == []
    assert cache.sizes()["zoo", "math"]["tokens"] == 3
    assert [one.attention for one in cache.iterate()] == [{}]


def test_a_place_costs_six_bytes_and_eight_in_long_texts():
    assert summary(100, (0, 1, 2)).nbytes == 6 * 300
    assert summary(100, (0, 1, 2), start=70_000).nbytes == 8 * 300
    long = "x" * 70_010
    one = signal(prompt=long, attention={"layers.1": summary(start=70_000)})
    found = UnitReader(unit_bytes("k", [one, signal("e", attention={"layers.1": summary()})]), "here")
    assert found.sample(0).attention["layers.1"].starts.min() >= 70_000
    assert np.array_equal(found.sample(1).attention["layers.1"].starts, summary().starts)


def test_a_map_is_refused():
    spans, weights = np.zeros((3, 2, 2), np.int64), np.full((3, 2, 9), 1 / 9)
    with pytest.raises(DataError, match="of 2 heads has arrays"):
        AttentionSummary.of((0, 1), spans, weights)


@pytest.mark.parametrize(
    ("heads", "spans", "mass", "said"),
    [
        ((0,), [[[2, 1]]], [[0.5]], "reversed"),
        ((0,), [[[-1, 1]]], [[0.5]], "negative"),
        ((0,), [[[0, 70_000]]], [[0.5]], "longer than"),
        ((0,), [[[0, 1]]], [[np.nan]], "not between 0 and 1"),
        ((0,), [[[0, 1]]], [[-0.1]], "not between 0 and 1"),
        ((0, 0), [[[0, 1], [0, 1]]], [[0.5, 0.5]], "names the heads"),
        ((-1,), [[[0, 1]]], [[0.5]], "names the heads"),
        ((0, 1), [[[0, 1]]], [[0.5]], "of 2 heads has arrays"),
    ],
)
def test_what_no_head_can_have_done_is_refused(heads, spans, mass, said):
    with pytest.raises(DataError, match=said):
        AttentionSummary.of(heads, np.array(spans), np.array(mass))


def test_masses_that_rounding_lifted_are_one():
    assert AttentionSummary.of((0,), np.array([[[0, 1]]]), np.array([[1 + 1e-6]])).mass.tolist() == [[1.0]]


@pytest.mark.parametrize("wrong", [{"layers.1": summary(2)}, {"layers.1": summary(3, start=40)}])
def test_summaries_of_other_tokens_or_texts_are_refused(wrong):
    with pytest.raises(DataError, match="the output has 3, and the text 14 bytes"):
        signal(attention=wrong)


def test_a_unit_has_the_same_heads_throughout():
    with pytest.raises(DataError, match="differ in the heads"):
        unit_bytes("k", [signal("a"), signal("b", attention={"layers.1": summary()})])


@pytest.mark.parametrize("part", ["starts", "sizes", "mass"])
def test_damaged_summaries_are_named(part):
    reader = UnitReader(unit_bytes("k", [signal("a"), signal("b")]), "here")
    reader._arrays[f"attention_0_{part}"] = reader._arrays[f"attention_0_{part}"][:4]
    with pytest.raises(DataError, match="here"):
        reader.sample(1)
    assert len(reader.sample(0).attention) == 2
    assert replace(signal("a"), attention={}).attention == {}
