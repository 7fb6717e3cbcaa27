"""Learning curves: through all trainings of a unit, smoothed, with their rollbacks."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nexus_core.errors import NexusError
from nexus_core.study.plots import Curve, curve, draw


def journal(folder, name, rows):
    (folder / "distill" / name).mkdir(parents=True)
    lines = [json.dumps(row) + "\n" for row in rows]
    (folder / "distill" / name / "steps.jsonl").write_text("".join(lines))


@pytest.fixture
def folder(tmp_path):
    """Four steps together, in which step 3 goes back, then two of `code` alone and one of `math`."""
    for seed in (1, 2):
        unit = tmp_path / f"full-seed{seed}"
        together = [{"step": i, "nll/code": 5.0 - i, "nll/math": 9.0, "nll": 7.0} for i in (1, 2, 3, 4)]
        together.insert(3, {"event": "rollback", "step": 3, "cause": "loss spike"})
        journal(unit, "joint", [*together, {"event": "end", "step": 4}])
        journal(unit, "code", [{"step": 1, "nll": 0.5}, {"step": 2, "nll": 0.25 * seed}, {"event": "end", "step": 2}])
        journal(unit, "math", [{"step": 1, "nll": 8.0}])
    return tmp_path


def test_a_curve_goes_through_the_trainings_in_their_order(folder):
    found = curve(folder / "full-seed1", ["joint", "code", "math"], "code")
    assert found.steps.tolist() == [1, 2, 3, 4, 5, 6]
    assert found.nll.tolist() == [4.0, 3.0, 2.0, 1.0, 0.5, 0.25]
    assert found.rollbacks == (3.0,)
    assert curve(folder / "full-seed1", ["joint", "math"], "math").nll.tolist() == [9.0] * 4 + [8.0]
    assert curve(folder / "full-seed1", ["math"], "code") is None


def test_a_word_that_stands_for_no_number_is_left_out(tmp_path):
    journal(tmp_path, "code", [{"step": 1, "nll": "nan"}, {"step": 2, "nll": 1.0}])
    assert curve(tmp_path, ["code"], "code").steps.tolist() == [2]


def test_smoothing_averages_what_came_before():
    steps = np.arange(1.0, 401.0)
    noisy = Curve(steps, 1.0 + (steps % 2), ())
    assert noisy.at(np.array([100.0, 200.0, 400.0])) == pytest.approx([1.5, 1.5, 1.5], abs=0.06)
    few = Curve(np.array([1.0, 2.0]), np.array([4.0, 2.0]), ())
    assert few.at(np.array([1.0, 1.5, 2.0])).tolist() == [4.0, 3.0, 2.0]


def test_the_picture_is_drawn_and_a_failed_unit_is_not_in_it(folder):
    pytest.importorskip("matplotlib")
    good = {"failed": None, "trainings": ["joint", "code", "math"]}
    arms = {
        "full": {"seeds": {"1": good, "2": good}},
        "logits_only": {"seeds": {"1": {"failed": "no", "trainings": []}}},
    }
    found = {"capabilities": ["code", "math"], "seeds": 2, "arms": arms}
    draw(folder, found, folder / "curves.png")
    assert (folder / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(NexusError, match="cannot draw"):
        draw(folder, found, folder / "nowhere" / "curves.png")
