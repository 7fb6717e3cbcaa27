"""Representative samples: the reservoir, and its stratified form."""

from __future__ import annotations

import pytest

from nexus_core.data import LoaderOptions, Record, StreamingDataLoader
from nexus_core.data import reservoir as module
from nexus_core.data.reservoir import Reservoir
from nexus_core.errors import DataError


def record(i, text="x"):
    return Record(text, "", {"input": text}, "s", i)


def sample(n, size, seed):
    reservoir, pick = Reservoir(size, seed), 1
    for i in range(1, n + 1):
        if i == pick:
            pick = reservoir.add(i, record(i))
    return [r.index for r in reservoir.records]


def test_the_first_200_are_kept(write_jsonl, questions):
    loader = StreamingDataLoader(write_jsonl("a.jsonl", questions(200)))
    records = list(loader)
    assert loader.representative_samples == records


def test_200_of_many_are_distinct_and_deterministic(write_jsonl, questions):
    path = write_jsonl("a.jsonl", questions(5000))
    loader = StreamingDataLoader(path)
    list(loader)
    kept = loader.representative_samples
    assert len({r.index for r in kept}) == 200
    again = StreamingDataLoader(path)
    list(again)
    assert again.representative_samples == kept
    other = StreamingDataLoader(path, options=LoaderOptions(reservoir=10))
    list(other)
    assert len(other.representative_samples) == 10


def test_every_record_is_kept_with_equal_probability():
    """Chi-square over ten deciles of the stream, 400 seeds: 4,000 draws, 400 expected in each."""
    counts = [0] * 10
    for seed in range(400):
        for i in sample(500, 10, seed):
            counts[(i - 1) // 50] += 1
    assert sum(counts) == 4000
    assert sum((c - 400) ** 2 / 400 for c in counts) < 27.9  # p = 0.001 with 9 degrees of freedom


def test_replacement_happens_with_probability_size_over_i():
    """Expected number of records ever taken: size * (1 + sum of 1/i)."""
    taken = 0
    for seed in range(200):
        reservoir, pick = Reservoir(5, seed), 1
        for i in range(1, 401):
            if i == pick:
                pick = reservoir.add(i, record(i))
                taken += 1
    expected = 200 * (5 + sum(5 / i for i in range(6, 401)))
    assert abs(taken - expected) < 0.03 * expected


def test_no_reservoir(write_jsonl, questions):
    loader = StreamingDataLoader(write_jsonl("a.jsonl", questions(10)), options=LoaderOptions(reservoir=0))
    assert len(list(loader)) == 10
    assert loader.representative_samples == []


def test_huge_records_make_the_sample_smaller_and_not_the_memory_larger(monkeypatch):
    monkeypatch.setattr(module, "BUDGET", 100_000)
    reservoir, pick = Reservoir(50, 1), 1
    for i in range(1, 2001):
        if i == pick:
            pick = reservoir.add(i, record(i, "y" * 5_000))
    kept = reservoir.records
    assert 5 <= len(kept) <= 20
    assert len({r.index for r in kept}) == len(kept)
    assert max(r.index for r in kept) > 500


def test_rare_strata_are_kept(write_jsonl):
    rows = [{"input": f"{i}", "target": "", "level": "easy"} for i in range(5000)]
    for i in range(0, 5000, 10):
        rows[i]["level"] = "medium"
    for i in (11, 2501, 4901):
        rows[i]["level"] = "hard"
    loader = StreamingDataLoader(write_jsonl("a.jsonl", rows), options=LoaderOptions(stratum="level"))
    list(loader)
    levels = [r.fields["level"] for r in loader.representative_samples]
    assert [levels.count(level) for level in ("hard", "medium", "easy")] == [3, 98, 99]
    assert len({r.index for r in loader.representative_samples}) == 200


def test_a_stratum_must_exist_and_have_few_values(write_jsonl):
    path = write_jsonl("a.jsonl", [{"input": f"{i}", "target": "", "n": i} for i in range(100)])
    for field, what in (("level", "keys found: input, target, n"), ("n", "more than 64 different values")):
        loader = StreamingDataLoader(path, options=LoaderOptions(stratum=field))
        with pytest.raises(DataError, match=what):
            list(loader)
            loader.representative_samples  # noqa: B018
