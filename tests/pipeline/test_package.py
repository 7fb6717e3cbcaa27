"""What a bundle says of its teachers, and under whose licences its weights are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.manifest import Manifest
from nexus_core.bundle.readme import licence
from nexus_core.gate import Report
from nexus_core.pipeline.package import teachers_of
from nexus_core.registry import load_registry
from nexus_core.resources import shared_path
from nexus_core.student.arch import Decision

GIVES_NO_PROFILE = Decision("drop", "agentcpm-explore/reasoning", "no profile in this run; absent")
GIVES = Decision("keep", "agentcpm-explore/tools", "call_accuracy 0.9")
REPORT = Report({"isolation": {"teachers": {"agentcpm-explore": {"weights_sha256": "ab" * 32}}}})


@pytest.fixture(scope="module")
def manifest_of(
    module_at: Callable[[Path], ModuleType], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Manifest]:
    """The manifest of a tiny bundle whose plan says this."""
    tiny = module_at(Path(__file__).parents[1] / "bundle/tiny_bundle.py")
    plain = read_manifest(tiny.make(tmp_path_factory.mktemp("tiny") / "bundle"))

    def made(*decisions: Decision, **changes: Any) -> Manifest:
        student = replace(plain.student, decisions=decisions, **changes)
        teachers = teachers_of(student, load_registry(shared_path("registry.yaml")), REPORT)
        return replace(plain, student=student, teachers=tuple(teachers))

    return made


@pytest.mark.parametrize("decisions", [(GIVES_NO_PROFILE, GIVES), (GIVES, GIVES_NO_PROFILE)])
def test_the_licence_of_a_teacher_that_was_dropped_for_something_else_is_named(manifest_of, decisions) -> None:
    manifest = manifest_of(*decisions)
    (teacher,) = manifest.teachers
    assert teacher.fate == (
        "distilled into tools: call_accuracy 0.9; dropped for reasoning: no profile in this run; absent"
    )
    assert (teacher.weights_sha256, teacher.licence) == ("ab" * 32, "Apache-2.0")
    assert "agentcpm-explore: Apache-2.0" in licence(manifest)


def test_who_gave_nothing_has_no_say(manifest_of) -> None:
    assert "agentcpm-explore" not in licence(manifest_of(GIVES_NO_PROFILE))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("agentcpm-explore", "start\nfrom agentcpm-explore"),
        ("random", "start\nfrom random numbers"),
        ("base", "start\nfrom base, whose licence is not recorded here"),
    ],
)
def test_what_the_weights_started_from_is_said(manifest_of, source, says) -> None:
    manifest = manifest_of(GIVES_NO_PROFILE, backbone_source=source)
    assert says in licence(manifest)
    assert ("agentcpm-explore: Apache-2.0" in licence(manifest)) == (source == "agentcpm-explore")
