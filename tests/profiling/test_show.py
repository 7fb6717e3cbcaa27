"""A profile as tables and as one document: numbers under fixed names, and what was proven apart from what was not."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
)
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.show import document, tables
from nexus_core.types import Direction

KEEP, DROP = ComponentClass.NON_NEGOTIABLE, ComponentClass.DISCARDABLE
COMPONENTS = (
    ComponentResult(0, KEEP, 0.3, 0.2, 0.4, 50, 0.5),
    ComponentResult(1, KEEP, 0.01, -0.01, 0.05, 200, 0.2, "1-2", undecided=True),
    ComponentResult(2, KEEP, 0.01, -0.01, 0.05, 200, 0.1, "1-2", undecided=True),
    ComponentResult(3, DROP, 0.0, 0.0, 0.004, 800, 0.05),
)
CHECK = ReconstructionResult("layers.3", 3, 0.9, 0.005, 0.01, 0.2, 40, -0.01, 0.03)


def profile(*checks: ReconstructionResult) -> CapabilityProfile:
    pca = PCA(np.zeros(8), np.eye(8)[:3], np.ones(3), 4.0, 99)
    block = BlockProfile(
        *("layers.3", 3, 8, "mean", "answer", pca, (0, 1, 2), np.zeros((5, 3)), (0.5, 0.2, 0.1, 0.05), COMPONENTS),
        note="few rows",
        tolerance=0.05,
    )
    return CapabilityProfile(
        *("ada", "hash", "math", "exact", Direction.HIGHER, 0.9, 50, 42, 1.5, (block,)),
        heads=(HeadResult("layers.3", 0, 0.2, 0.1, 0.3),),
        perturbations=(PerturbationResult("typo", 0.05, None, 0.8, 0.1, 0.05, 0.15, 12),),
        pilot={"layers.3": 0.4, "layers.0": 0.0},
        reconstruction=checks,
        notes=("a note",),
    )


def rows(of: CapabilityProfile, start: str) -> list[dict[str, str]]:
    (found,) = [(headers, rows) for title, headers, rows in tables(of) if title.startswith(start)]
    return [dict(zip(found[0], row, strict=True)) for row in found[1]]


def test_the_document_holds_numbers_under_fixed_names() -> None:
    found = document(profile(CHECK))
    names = "teacher weights_hash capability metric direction baseline_score n"
    names += " blocks reconstruction heads perturbations pilot notes seconds"
    assert list(found) == names.split()
    assert (found["baseline_score"], found["n"], found["seconds"], found["direction"]) == (0.9, 50, 1.5, "higher")
    (block,) = found["blocks"]
    assert {name: block[name] for name in ("block", "index", "dim", "k", "note", "tolerance")} == {
        **{"block": "layers.3", "index": 3, "dim": 8, "k": 3},
        **{"note": "few rows", "tolerance": 0.05},
    }
    assert (block["non_negotiable"], block["proven"]) == (3, 1)
    assert block["components"][1] == {
        **{"index": 1, "group": "1-2", "variance_fraction": 0.2, "drop": 0.01, "low": -0.01, "high": 0.05},
        **{"n": 200, "class": "non_negotiable", "undecided": True},
    }
    assert len(block["components"]) == 4, "every component, also those that share a test"
    assert found["reconstruction"] == [
        {
            **{"block": "layers.3", "k": 3, "score": 0.9, "drop": 0.005, "low": -0.01, "high": 0.03},
            **{"max_drop": 0.01, "n": 40, "passed": True, "undecided": True},
        }
    ]
    assert found["heads"] == [{"block": "layers.3", "head": 0, "drop": 0.2, "low": 0.1, "high": 0.3}]
    assert found["perturbations"][0]["magnitude"] == 0.05
    assert found["pilot"] == {"layers.3": 0.4, "layers.0": 0.0}
    assert found["notes"] == ["a note"]
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_an_interval_that_was_not_measured_is_not_in_the_document() -> None:
    (check,) = document(profile(replace(CHECK, low=0.0, high=0.0)))["reconstruction"]
    assert not {"low", "high"} & set(check)
    assert check["undecided"] is False


def test_a_number_that_is_none_is_null_with_its_reason() -> None:
    found = document(replace(profile(), baseline_score=float("nan")))
    assert (found["baseline_score"], found["baseline_score_reason"]) == (None, "not a number")


@pytest.mark.parametrize(
    ("drop", "low", "high", "result", "interval"),
    [
        (0.005, -0.01, 0.03, "ok, undecided", "-0.010 to +0.030"),
        (0.005, -0.01, 0.01, "ok, undecided", "-0.010 to +0.010"),
        (0.0, -0.002, 0.009, "ok", "-0.002 to +0.009"),
        (0.005, 0.0, 0.0, "ok", "-"),
        (0.02, 0.0, 0.04, "too much", "+0.000 to +0.040"),
        (0.2, 0.1, 0.3, "too much", "+0.100 to +0.300"),
    ],
)
def test_a_reconstruction_has_an_interval_and_a_result(
    drop: float, low: float, high: float, result: str, interval: str
) -> None:
    (row,) = rows(profile(replace(CHECK, drop=drop, low=low, high=high)), "reconstruction")
    assert (row["result"], row["95 % interval"]) == (result, interval)


def test_the_summary_tells_the_proven_from_the_cautious() -> None:
    (row,) = [row for row in rows(profile(), "ada on math") if row["what"] == "layers.3"]
    assert row["found"] == ("1 proven non-negotiable, 2 by caution, of 4 components; 3 of 8 directions kept; few rows")


def test_components_of_one_test_are_one_row() -> None:
    found = rows(profile(), "layers.3: components")
    assert [row["component"] for row in found] == ["0", "1-2", "3"]
    assert [row["class"] for row in found] == ["non_negotiable", "non_negotiable (undecided)", "discardable"]
