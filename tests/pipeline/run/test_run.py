"""`nexus run` from two teachers to a bundle, and what it does the second time."""

from __future__ import annotations

import json


def test_from_teachers_to_a_bundle(passed_once, world_once) -> None:
    assert passed_once.status == 0, passed_once.err + passed_once.out
    assert (world_once.bundle / "manifest.json").is_file()
    report = json.loads((world_once.run / "report.json").read_text())
    assert report["retention"]["verdict"] == "pass"
    assert f"try it: nexus infer {world_once.bundle.relative_to(world_once.here)}" in passed_once.out
