"""--delete-teachers: only after a pass that holds, only what is the run's own or named, and never without a manifest."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def own(passed, monkeypatch):
    """A registry whose teachers lie in the run's own cache (`ada`) and elsewhere (`bob`): copies, to be lost."""
    shutil.copytree(passed.teacher("ada"), passed.run / "teachers/ada")
    shutil.copytree(passed.teacher("bob"), passed.run.parent / "elsewhere/bob")
    text = passed.registry.read_text().replace("path: teachers/ada", "path: run/teachers/ada")
    registry = passed.run.parent / "registry.yaml"
    registry.write_text(text.replace("path: teachers/bob", "path: elsewhere/bob"))
    monkeypatch.setenv("NEXUS_REGISTRY", str(registry))
    return passed


def test_the_runs_own_teachers_go_and_the_others_stay(own, verify) -> None:
    ended = verify("--check", "--delete-teachers")
    assert ended.status == 0, ended.err
    assert not (own.run / "teachers/ada").exists() and (own.run.parent / "elsewhere/bob").exists()
    assert "ada: deleted (in the run's cache)" in ended.err and "bob: kept (outside" in ended.err


def test_a_teacher_elsewhere_goes_only_when_it_is_named(own, verify) -> None:
    ended = verify("--check", "--delete-teachers", "--delete", own.run.parent / "elsewhere/bob")
    assert ended.status == 0 and not (own.run.parent / "elsewhere/bob").exists()
    assert "bob: deleted (named)" in ended.err


def test_what_is_no_teacher_is_not_deleted(own, verify) -> None:
    ended = verify("--check", "--delete-teachers", "--delete", own.run / "student")
    assert ended.status == 2 and "is no teacher of this student" in ended.err
    assert own.student.exists() and (own.run / "teachers/ada").exists()


def test_naming_without_deleting_is_said(own, verify) -> None:
    ended = verify("--check", "--delete", own.run / "teachers/ada")
    assert ended.status == 2 and (own.run / "teachers/ada").exists()


def test_nothing_goes_after_a_report_that_does_not_hold(own, verify) -> None:
    path = own.run / "verify_report.json"
    path.write_text(path.read_text().replace('"retain_fraction": 0.97', '"retain_fraction": 0.5'))
    assert verify("--check", "--delete-teachers").status == 3
    assert (own.run / "teachers/ada").exists() and not (own.run / "repro_manifest.json").exists()


def test_nothing_goes_where_the_student_was_changed_since(own, verify) -> None:
    (own.student / "adapters/letters.safetensors").write_bytes(b"other")
    assert verify("--check", "--delete-teachers").status == 3
    assert (own.run / "teachers/ada").exists()


def test_the_manifest_names_all_that_the_run_was_made_of(own, verify, passed_once) -> None:
    verify("--check", "--delete-teachers")
    found = json.loads((own.run / "repro_manifest.json").read_text())
    assert found["student_sha256"] == passed_once.report["subject_sha256"]
    assert found["report_sha256"] == passed_once.report["report_sha256"]
    assert found["teachers"]["ada"]["fate"] == "deleted" and found["teachers"]["bob"]["fate"].startswith(
        "kept: outside"
    )
    assert (
        found["teachers"]["ada"]["weights_sha256"]
        == passed_once.report["isolation"]["teachers"]["ada"]["weights_sha256"]
    )
    assert found["contracts"]["letters"]["retain_fraction"] == 0.97 and found["seed"] == 42
    assert {"python", "torch", "nexus-core", "nexus-tower-text"} <= set(found["versions"])
    for name in ("registry_sha256", "profiles_sha256"):
        assert len(found[name]) == 64


@pytest.mark.slow
def test_a_student_is_verified_without_its_teachers_on_the_machine(own, verify) -> None:
    verify("--check", "--delete-teachers", "--delete", own.run.parent / "elsewhere/bob")
    ended = verify()
    assert (ended.status, ended.report["verdict"]) == (0, "pass"), ended.err
    ada = ended.report["isolation"]["teachers"]["ada"]
    assert not ada["moved"] and ada["open"].startswith("absent") and len(ada["weights_sha256"]) == 64
    assert "out of reach: no teacher was on this machine" in ended.out
