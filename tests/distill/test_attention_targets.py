"""Summaries of a teacher in the positions of a student's row, whatever the two tokenizers cut."""

from __future__ import annotations

import numpy as np
import pytest

from nexus_core.distill.attention_targets import AttentionTarget, MappedHead, attention_targets, map_heads
from nexus_core.distill.targets import SparseTargets, TrainingRow
from nexus_core.errors import DataError, UsageError
from nexus_core.profiling.cache import AttentionSummary, TeacherSignal
from nexus_core.student.arch import Site

PROMPT, OUTPUT = "a €5 note", "12+345"  # the euro sign is three bytes: the prompt is of 11
P = len(PROMPT.encode())


def cut(sizes: list[int], end: bool = True) -> np.ndarray:
    """Byte offsets of pieces of these sizes, and of an end token behind them."""
    edges = np.cumsum([0, *sizes])
    pieces = np.stack([edges[:-1], edges[1:]], 1)
    return np.concatenate([pieces, [[edges[-1]] * 2]]) if end else pieces


def signal(places: list[tuple[int, int, float]], sizes: list[int], block: str = "t.1", heads=(3,)) -> TeacherSignal:
    """One head (or all alike) that looks at `places` (start, end, mass), one per answer token."""
    spans = np.repeat(np.array([[p[:2]] for p in places]), len(heads), 1)
    mass = np.repeat(np.array([[p[2]] for p in places]), len(heads), 1)
    offsets = cut(sizes).astype(np.int32)
    return TeacherSignal(
        digest="d" * 64,
        prompt=PROMPT,
        output=OUTPUT,
        token_ids=np.zeros(len(offsets), np.int32),
        offsets=offsets,
        attention={block: AttentionSummary.of(heads, spans, mass)},
    )


ONE = {1: (MappedHead(1, 0, "t.1", 3),)}
TEMPLATED = np.concatenate(
    [[[0, 0]], cut([1, 1, 3, 1, 1, 4], end=False), [[0, 0], [0, 0]]]
)  # <user>, "a", " ", "€", ...


def test_places_become_positions_of_the_row():
    """Teacher tokens 12 + 345 and the end; student tokens 1 2 + 3 45 and the end, behind nine prompt tokens."""
    teacher = signal([(2, 5, 0.9), (P, P + 2, 0.8), (P + 2, P + 3, 0.7), (5, 6, 0.6)], [2, 1, 3])
    target = attention_targets(teacher, ONE, TEMPLATED, cut([1, 1, 1, 1, 2]))[1]
    assert target.has[:, 0].tolist() == [True, False, True, True, False, True]
    # the euro; both digits of 12, of which the student's tokens stand at 9 and 10; the plus; the digit 5
    assert [(a, b) for a, b in zip(target.start[:, 0], target.stop[:, 0], strict=True)] == [
        (3, 4),
        (0, 0),
        (9, 11),
        (11, 12),
        (0, 0),
        (4, 5),
    ]
    assert np.allclose(target.mass[target.has], [0.9, 0.8, 0.7, 0.6], atol=1e-3)


@pytest.mark.parametrize("seed", range(20))
def test_positions_are_those_whose_bytes_overlap(seed):
    """Against a plain loop over all pairs of bytes, with random cuts on both sides."""
    rng = np.random.default_rng(seed)

    def random_cut(size: int) -> list[int]:
        edges = np.sort(rng.choice(np.arange(1, size), rng.integers(0, size - 1), replace=False))
        return np.diff([0, *edges, size]).tolist()

    sizes = random_cut(len(OUTPUT))
    full = np.concatenate([cut(random_cut(P), end=False), cut(sizes) + P])
    places = [(*full[rng.integers(0, len(full) - len(sizes) - 1 + t)], rng.random()) for t in range(len(sizes) + 1)]
    teacher = signal(places, sizes)
    prompt, answer = cut(random_cut(P), end=False), cut(random_cut(len(OUTPUT)))
    prompt = np.concatenate([[[0, 0]], prompt, [[0, 0]]])
    found = attention_targets(teacher, ONE, prompt, answer)
    row = np.concatenate([prompt, answer + P])
    target = found[1]
    for a, (start, _) in enumerate(answer):
        t = next((i for i, (begin, _) in enumerate(teacher.offsets) if begin == start), None)
        covered = set() if t is None else set(range(places[t][0], places[t][1]))
        tokens = [i for i, (x, y) in enumerate(row) if covered & set(range(x, y))]
        assert target.has[a, 0] == bool(tokens and places[t][2])
        if tokens:
            assert (target.start[a, 0], target.stop[a, 0]) == (tokens[0], tokens[-1] + 1)
            assert tokens[-1] <= len(prompt) - 1 + a, "no head sees what comes later"


def test_a_place_of_no_text_and_a_head_without_summary_are_no_targets():
    nowhere = signal([(0, 0, 0.9)] * 4, [2, 1, 3])
    assert attention_targets(nowhere, ONE, TEMPLATED, cut([2, 1, 3])) == {}
    seen = signal([(2, 5, 0.9)] * 4, [2, 1, 3])
    other = {1: (MappedHead(1, 0, "t.1", 2), MappedHead(1, 1, "t.1", 3)), 2: (MappedHead(2, 0, "t.2", 3),)}
    found = attention_targets(seen, other, TEMPLATED, cut([2, 1, 3]))
    assert list(found) == [1] and found[1].has.any(0).tolist() == [False, True]


def test_a_prompt_that_lost_its_beginning_has_no_place_for_what_was_there():
    seen = signal([(2, 5, 0.9), (7, 11, 0.8), (2, 5, 0.9), (7, 11, 0.8)], [2, 1, 3])
    found = attention_targets(seen, ONE, np.array([[6, 7], [7, 11]]), cut([2, 1, 3]))[1]
    assert found.has[:, 0].tolist() == [False, True, False, True]
    assert found.start[found.has].tolist() == [1, 1]


def test_of_the_parts_of_a_character_the_first_is_aligned():
    teacher = signal([(2, 5, 0.9)] * 4, [2, 1, 3])
    student = np.array([[0, 2], [0, 2], [2, 3], [3, 6], [6, 6]])
    found = attention_targets(teacher, ONE, TEMPLATED, student)[1]
    assert found.has[:, 0].tolist() == [True, False, True, True, True]


def test_heads_are_mapped_in_turn_and_none_twice_before_all():
    sites = [Site(0, 8, "t.1"), Site(2, 8, "t.3"), Site(2, 8, "t.4"), Site(1, 8, "t.9")]
    heads = {"t.1": (5, 0), "t.3": (7, 2, 1), "t.4": (0, 6)}
    mapped = map_heads(sites, heads, 4)
    assert [(m.teacher_head, m.head) for m in mapped[0]] == [(5, 0), (0, 1)]
    assert [(m.teacher_block, m.teacher_head, m.head) for m in mapped[2]] == [
        ("t.3", 7, 0),
        ("t.3", 2, 1),
        ("t.3", 1, 2),
        ("t.4", 0, 3),
        ("t.4", 6, 0),
    ]
    assert 1 not in mapped and mapped == map_heads(sites, heads, 4)
    with pytest.raises(UsageError, match="0 heads"):
        map_heads(sites, heads, 0)


def test_rows_carry_packed_targets():
    seen = signal([(2, 5, 0.9), (0, 0, 0.5), (2, 5, 0.25), (5, 6, 0.5)], [2, 1, 3])
    target = attention_targets(seen, ONE, TEMPLATED, cut([2, 1, 3]))[1]
    packed = target.packed()
    assert packed.has.tolist() == [True, False, True, True]
    assert np.allclose(packed.values, [[3, 4, 0.9], [0, 0, 0], [3, 4, 0.25], [4, 5, 0.5]], atol=1e-3)
    row = TrainingRow(
        "d", np.zeros(9, np.int32), np.zeros(4, np.int32), SparseTargets.none(4), np.zeros(4), {}, {1: packed}
    )
    assert row.attention[1] is packed


def test_targets_that_contradict_themselves_are_refused():
    ones = np.ones((2, 1), np.int32)
    with pytest.raises(DataError, match="empty range"):
        AttentionTarget(ones, ones, ones.astype(np.float32), ones.astype(bool))
    with pytest.raises(DataError, match="differ in their shapes"):
        AttentionTarget(ones, ones[:1], ones.astype(np.float32), ones.astype(bool))
