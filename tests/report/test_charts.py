"""Where lines and marks lie: inside the picture, and where their numbers say."""

from __future__ import annotations

import pytest

from nexus_core.report.charts import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    heat_map,
    line_chart,
    retention_chart,
    ticks,
    training_chart,
    variance_chart,
)


def points(text: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in text.split())]


@pytest.mark.parametrize(
    ("most", "least", "expected"),
    [
        (1.0, 0.0, [0, 0.5, 1]),
        (1.05, 0.0, [0, 0.5, 1]),
        (4500, 0, [0, 2000, 4000]),
        (0.3, -0.1, [-0.1, 0, 0.1, 0.2, 0.3]),
        (0.0, 0.0, [0]),
    ],
)
def test_ticks_are_round_and_have_zero(most, least, expected):
    assert ticks(most, least) == pytest.approx(expected)


def test_a_line_goes_from_corner_to_corner():
    chart = line_chart([[(0, 0.0), (10, 5.0)]])
    assert points(chart["lines"][0]) == [(LEFT, BOTTOM), (RIGHT, TOP)]


def test_what_is_below_zero_stays_in_the_picture():
    chart = line_chart([[(0, 3.0), (10, -1.0)]])
    assert points(chart["lines"][0]) == [(LEFT, TOP), (RIGHT, BOTTOM)]
    assert {tick["label"] for tick in chart["y"]} >= {"-1", "0", "3"}


@pytest.mark.parametrize("lines", [[], [[]]])
def test_nothing_is_no_picture(lines):
    assert line_chart(lines) is None


def test_one_point_is_a_picture():
    assert points(line_chart([[(1, 0.0)]])["lines"][0]) == [(RIGHT, BOTTOM)]


def test_the_dot_of_a_variance_curve_lies_on_it():
    chart = variance_chart([{"curve": [[1, 0.2], [11, 0.7], [21, 1.0]], "kept": 6}])
    (mark,) = chart["marks"]
    assert mark["y"] == pytest.approx(BOTTOM + (TOP - BOTTOM) * 0.45, abs=0.1)
    assert mark["x"] == pytest.approx(LEFT + (RIGHT - LEFT) * 6 / 21, abs=0.1)


def test_rollbacks_stand_at_their_steps_and_words_are_no_points():
    training = {
        "points": [{"step": 50, "loss": 1.0}, {"step": 75, "loss": "nan"}, {"step": 100, "loss": None}],
        "rollbacks": [{"step": 25}],
    }
    chart = training_chart(training, "loss")
    assert chart["rollbacks"] == [LEFT + (RIGHT - LEFT) / 2] and len(points(chart["lines"][0])) == 1


def row(**changes: object) -> dict:
    return {
        "capability": "a",
        "verdict": "fail",
        "ratio": 0.5,
        "low": 0.4,
        "high": 0.6,
        "retain_fraction": 0.97,
        "controls": [],
        **changes,
    }


def test_retention_is_in_proportion_and_a_far_control_stays_at_the_edge():
    chart = retention_chart([row(controls=[{"name": "x", "ratio": 9.0}, {"name": "y", "ratio": None}])])
    (line,) = chart["lines"]
    scale = (line["limit"] - 8) / 0.97
    assert [(line[key] - 8) / scale for key in ("x", "low", "high")] == pytest.approx([0.5, 0.4, 0.6], abs=0.002)
    assert [(c["name"], c["x"]) for c in line["controls"]] == [("x", WIDTH - 8)]


def test_a_capability_without_a_score_has_no_dot():
    (line,) = retention_chart([row(ratio=None, low=None, high=None)])["lines"]
    assert (line["x"], line["low"], line["high"]) == (None, None, None) and line["limit"] is not None


def test_heat_is_the_share_of_the_largest_drop_and_a_gain_is_cold():
    ablations = [
        {"block": "b", "what": what, "drop": drop} for what, drop in [("head 10", 0.2), ("head 9", 0.4), ("x", -1.0)]
    ]
    chart = heat_map(ablations)
    assert [cell["strength"] for cell in chart["cells"]] == [50, 100, 0]
    assert [column["label"] for column in chart["columns"]] == ["head 9", "head 10", "x"]
    assert heat_map([]) is None
