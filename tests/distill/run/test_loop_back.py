"""`nexus verify --attempts`: from the gate back to stage 4 for what fails, and before the gate again."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import nexus_teacher_zoo
import pytest

from nexus_core.resources import shared_path

TEACHER = """\
  zoo-{name}:
    name: Zoo {name}
    parameters: 1M
    category: Language model
    best_feature: {name}
    tower: text
    capabilities: [{name}]
    path: models/{name}
    license: MIT
"""


@pytest.fixture
def gated(taught, tmp_path, monkeypatch, nexus) -> Path:
    """The taught run with its teachers' scores, and copies of the teachers: only those are moved."""
    rows = ""
    for name in ("reasoning", "tools"):
        shutil.copytree(Path(nexus_teacher_zoo.__file__).parent / "weights" / name, tmp_path / "models" / name)
        rows += TEACHER.format(name=name)
    text = shared_path("registry.yaml").read_text().replace("\nteachers:\n", f"\nteachers:\n{rows}", 1)
    numbers = (
        "gate: {samples: 4, resamples: 50, attempts: 1, control_samples: 2, alone: 2, batch_equal: 0.1, minutes: 9}"
    )
    text, found = re.subn(r"(?ms)^gate:\n.*?\n\n", f"{numbers}\n\n", text)
    assert found == 1
    (tmp_path / "registry.yaml").write_text(text)
    monkeypatch.setenv("NEXUS_REGISTRY", str(tmp_path / "registry.yaml"))
    for name in ("reasoning", "tools"):
        ended = nexus("profile", "--teacher", f"zoo-{name}", "--capability", name, "--run", taught, "--reference-only")
        assert ended.status == 0, ended.err
    return taught


@pytest.mark.slow
def test_what_fails_is_taught_on_alone_and_asked_again(gated, nexus) -> None:
    student = gated / "student"
    before = {path.name: path.read_bytes() for path in student.rglob("*") if path.is_file()}
    ended = nexus("verify", "--run", gated)
    report = json.loads((gated / "verify_report.json").read_text())
    assert ended.status == 3 and report["verdict"] == "fail", ended.err
    (attempt,) = report["attempts"]
    assert {entry["capability"] for entry in attempt["adapters"]} == {"reasoning", "tools"}
    for entry in attempt["adapters"]:
        assert 0 < entry["missed"] <= 1 and entry["steps"] > 0
        assert f"back to stage 4 with {entry['capability']}" in ended.err
        file = f"{entry['capability']}.safetensors"
        assert (gated / entry["replaced"]).read_bytes() == before[file] != (student / "adapters" / file).read_bytes()
    after = {path.name: path.read_bytes() for path in student.rglob("*") if path.is_file()}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"reasoning.safetensors", "tools.safetensors"}, "the backbone and the router are not touched"
    assert nexus("verify", "--run", gated, "--check").err.count("not to be trusted") == 0
    assert "return 1 to stage 4: reasoning, tools" in ended.out


@pytest.mark.slow
def test_a_way_back_that_is_barred_is_told_and_the_verdict_stays(gated, nexus) -> None:
    shutil.rmtree(gated / "signals")
    shutil.rmtree(gated / "distill")
    ended = nexus("verify", "--run", gated, "--capability", "tools")
    report = json.loads((gated / "verify_report.json").read_text())
    assert ended.status == 3 and "no way back to stage 4" in ended.err
    assert "signals" in report["attempts"][0]["failed"]
    assert report["attempts"][0]["adapters"] == []


@pytest.mark.slow
def test_where_only_one_can_be_taught_the_report_is_about_the_student_that_is_left(gated, nexus) -> None:
    nexus("verify", "--run", gated, "--attempts", 0)
    first, second = json.loads((gated / "verify_report.json").read_text())["capabilities"]
    for unit in (gated / "signals").glob("*.json"):
        if f"zoo-{second}" in unit.read_text():
            unit.unlink()
    shutil.rmtree(gated / "distill")
    ended = nexus("verify", "--run", gated)
    (attempt,) = json.loads((gated / "verify_report.json").read_text())["attempts"]
    assert [entry["capability"] for entry in attempt["adapters"]] == [first] and attempt["failed"]
    assert f"return 1 to stage 4: {first}; " in ended.out
    assert nexus("verify", "--run", gated, "--check").err.count("not to be trusted") == 0
