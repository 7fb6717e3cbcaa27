"""A kept version comes back whole or not at all, can be taken back; a killed exchange is finished by whoever comes next."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.disk import read_manifest
from nexus_core.cli.main import main
from nexus_core.errors import ModelError, NexusError, StateError, UsageError
from nexus_core.lock import held
from nexus_core.pipeline.rollback import Versions, list_versions, rollback, versions_of


def kinds(bundle: Path) -> dict[str, str]:
    """What is where, by its kind of weights: the tiny bundles differ in it."""
    folder = bundle.with_name("bundle.versions")
    places = [bundle, *(path for path in sorted(folder.iterdir()))] if bundle.exists() else sorted(folder.iterdir())
    return {path.name: read_manifest(path).quantisation.kind for path in places}


@pytest.fixture
def nexus(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(["bundle", "rollback", *map(str, arguments)])
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


# --- there and back -----------------------------------------------------------------------------------------------------


def test_the_last_one_comes_back_and_the_same_command_takes_that_back(versioned: Path) -> None:
    before = student_digest(versioned)
    done = rollback(versioned)
    assert (done.number, done.replaced) == (2, 3)
    assert kinds(versioned) == {"bundle": "fp16", "0001": "fp32", "0003": "int8"}
    assert check_bundle(versioned) == done.manifest
    again = rollback(versioned)
    assert (again.number, again.replaced) == (3, 4)
    assert kinds(versioned) == {"bundle": "int8", "0001": "fp32", "0004": "fp16"}
    assert student_digest(versioned) == before


def test_any_one_can_be_named(versioned: Path) -> None:
    rollback(versioned, 1)
    assert kinds(versioned) == {"bundle": "fp32", "0002": "fp16", "0003": "int8"}
    rollback(versioned)
    assert kinds(versioned)["bundle"] == "int8", "the last replaced is what comes back, whatever came before it"


def test_a_bundle_that_is_gone_comes_back(versioned: Path) -> None:
    shutil.rmtree(versioned)
    done = rollback(versioned)
    assert (done.number, done.replaced) == (2, None)
    assert kinds(versioned) == {"bundle": "fp16", "0001": "fp32"}


def test_a_damaged_bundle_is_replaced_and_kept_as_it_is(versioned: Path) -> None:
    (versioned / "adapters/tools_adapter.safetensors").write_bytes(b"damaged")
    rollback(versioned)
    assert check_bundle(versioned)
    kept = versioned.with_name("bundle.versions") / "0003/adapters/tools_adapter.safetensors"
    assert kept.read_bytes() == b"damaged"
    with pytest.raises(ModelError, match=r"0003/adapters/tools_adapter\.safetensors has 7 bytes"):
        rollback(versioned)
    assert check_bundle(versioned)


@pytest.mark.parametrize("damage", ["flip", "missing", "stranger", "manifest"])
def test_a_version_that_is_not_right_to_the_byte_does_not_come_back(versioned: Path, damage: str) -> None:
    version = versioned.with_name("bundle.versions") / "0002"
    file = version / "adapters/tools_adapter.safetensors"
    if damage == "flip":
        file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1]))
    elif damage == "missing":
        file.unlink()
    elif damage == "stranger":
        (version / "run.py").write_text("print()")
    else:
        (version / "manifest.json").unlink()
    before = student_digest(versioned)
    with pytest.raises(NexusError):
        rollback(versioned)
    assert student_digest(versioned) == before
    assert sorted(path.name for path in version.parent.iterdir()) == ["0001", "0002"]
    rollback(versioned, 1)
    assert kinds(versioned)["bundle"] == "fp32" if damage != "manifest" else check_bundle(versioned)


def test_a_version_that_is_not_there(versioned: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        rollback(versioned, 7)
    assert caught.value.hint == "kept are: 1, 2"
    with pytest.raises(ModelError, match="no such directory"):
        rollback(tmp_path / "other")
    assert not (tmp_path / "other.versions").exists()
    shutil.rmtree(tmp_path / "bundle.versions")
    with pytest.raises(UsageError, match="no earlier version of"):
        rollback(versioned)


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_tells_what_it_did(versioned: Path, nexus: Any) -> None:
    status, out, _ = nexus(versioned, "--to", 1)
    assert status == 0
    assert f"{versioned} is version 1 again: every hash is right" in out
    assert "what was there is version 3" in out
    status, out, _ = nexus(versioned, "--json")
    assert json.loads(out) == {
        "bundle": str(versioned),
        "version": 3,
        "replaced": 4,
        "manifest_sha256": read_manifest(versioned).as_json()["sha256"],
    }


def test_the_list_says_what_each_has_otherwise(versioned: Path, bundles_once: dict[str, Path], nexus: Any) -> None:
    shutil.rmtree(versioned)
    shutil.copytree(bundles_once["fp32"], versioned)
    (versioned.with_name("bundle.versions") / "0002/manifest.json").write_text("{}")
    status, out, _ = nexus(versioned, "--list")
    lines = out.splitlines()
    assert status == 0 and len(lines) == 3
    assert lines[1].split()[:2] == ["1", read_manifest(versioned).as_json()["sha256"][:12]]
    assert lines[1].endswith("nothing") and "damaged" in lines[2]
    first, second = json.loads(nexus(versioned, "--list", "--json")[1])["versions"]
    assert (first["differs"], first["problem"]) == ([], None) and second["problem"]


def test_a_list_can_be_had_of_a_bundle_that_is_damaged(versioned: Path, nexus: Any) -> None:
    (versioned / "manifest.json").write_text("{}")
    status, out, err = nexus(versioned, "--list")
    assert status == 0 and "the bundle itself is damaged" in err and len(out.splitlines()) == 3


def test_a_bundle_without_versions_says_so_and_is_left_alone(versioned: Path, nexus: Any, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "bundle.versions")
    assert nexus(versioned, "--list")[1] == f"no earlier version of {versioned} is kept\n"
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    assert nexus(versioned, "--list", "--to", 1)[0] == 2


def test_one_at_a_time(versioned: Path) -> None:
    with held(versioned.with_name("bundle.versions")), pytest.raises(StateError, match="in use by another process"):
        rollback(versioned)
    assert kinds(versioned)["bundle"] == "int8"


# --- killed, interrupted, refused ---------------------------------------------------------------------------------------


def test_killed_anywhere_the_next_command_has_a_whole_bundle(
    bundles_once: dict[str, Path], versioned: Path, tmp_path: Path, killed_at: Any
) -> None:
    """Nothing is lost, wherever it ends; and where no bundle is in place, whoever looks for it is told what to do."""
    found = []
    for n in itertools.count(1):
        place = Path(shutil.copytree(tmp_path, tmp_path.with_name(f"{tmp_path.name}-{n}"))) / "bundle"
        if not killed_at(n, lambda place=place: rollback(place, 1)):
            break
        gone = not place.exists()
        if gone:
            with pytest.raises(ModelError) as caught:
                read_manifest(place)
            assert f"nexus bundle rollback {place} --list" in caught.value.hint
        said: list[str] = []
        list_versions(place, said.append)
        after = kinds(place)
        found.append((gone, bool(said), after["bundle"]))
        assert sorted(after.values()) == ["fp16", "fp32", "int8"], "each is there once"
        for path in (place, *place.with_name("bundle.versions").iterdir()):
            assert student_digest(path) == student_digest(bundles_once[read_manifest(path).quantisation.kind])
    assert kinds(place)["bundle"] == "fp32"
    earlier, between, later = (False, False, "int8"), (True, True, "fp32"), (False, False, "fp32")
    assert found == [earlier] * found.count(earlier) + [between] + [later] * found.count(later)
    assert found.count(earlier) >= 2


def half_way(versioned: Path, coming: str) -> Path:
    """As a killed process leaves it: the bundle is a version already, the other one is not in its place yet."""
    folder = versioned.with_name("bundle.versions")
    versioned.rename(folder / "0003")
    (folder / "0001").rename(folder / coming)
    return folder


@pytest.mark.parametrize("coming", [".new", ".back-0001"])
def test_what_was_on_its_way_arrives(versioned: Path, coming: str) -> None:
    half_way(versioned, coming)
    assert [version.number for version in list_versions(versioned)] == [2, 3]
    assert kinds(versioned)["bundle"] == "fp32"


@pytest.mark.parametrize("coming", [".new", ".back-0001"])
def test_what_was_on_its_way_and_is_damaged_does_not(versioned: Path, coming: str) -> None:
    folder, said = half_way(versioned, coming), []
    (folder / coming / "README.md").write_text("changed")
    list_versions(versioned, said.append)
    assert read_manifest(versioned).quantisation.kind == "int8", "the one that was there is there again"
    assert "cannot: " in said[0] and said[1].endswith("is what it was before")
    assert (folder / "0001").exists() == (coming != ".new") and not (folder / coming).exists()


def test_drafts_and_half_removed_versions_go(versioned: Path) -> None:
    folder = versioned.with_name("bundle.versions")
    (folder / ".draft/adapters").mkdir(parents=True)
    (folder / ".gone-0001").mkdir()
    (folder / ".new").mkdir()
    (folder / "notes.txt").write_text("mine")
    list_versions(versioned)
    assert sorted(path.name for path in folder.iterdir()) == ["0001", "0002", "notes.txt"]


def test_an_interrupt_between_the_two_renamings_does_not_end_it_there(
    versioned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.rename

    def interrupted(source: Any, target: Any) -> None:
        real(source, target)
        if Path(source) == versioned:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        rollback(versioned)
    assert kinds(versioned) == {"bundle": "fp16", "0001": "fp32", "0003": "int8"}


@pytest.mark.skipif(sys.platform == "win32", reason="permissions are others there")
def test_what_the_system_refuses_leaves_everything_as_it_was(versioned: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.rename

    def refused(source: Any, target: Any) -> None:
        if Path(source) == versioned:
            raise OSError(18, "Invalid cross-device link")
        real(source, target)

    monkeypatch.setattr(os, "rename", refused)
    with pytest.raises(OSError, match="cross-device"):
        rollback(versioned)
    assert kinds(versioned) == {"bundle": "int8", "0001": "fp32", "0002": "fp16"}


# --- a new one ----------------------------------------------------------------------------------------------------------


def test_a_draft_becomes_the_bundle_and_so_many_versions_stay(versioned: Path, bundles_once: dict[str, Path]) -> None:
    for kind, keep, left in (("fp32", 3, [1, 2, 3]), ("fp16", 2, [3, 4]), ("int8", 1, [5])):
        with versions_of(versioned) as versions, versions.draft() as place:
            shutil.copytree(bundles_once[kind], place)
            versions.accept(keep)
        assert read_manifest(versioned).quantisation.kind == kind
        assert Versions(versioned).numbers() == left


def test_a_draft_that_is_not_accepted_leaves_nothing(versioned: Path, bundles_once: dict[str, Path]) -> None:
    with versions_of(versioned) as versions, versions.draft() as place:
        shutil.copytree(bundles_once["fp32"], place)
    assert kinds(versioned) == {"bundle": "int8", "0001": "fp32", "0002": "fp16"}


def test_a_place_that_is_empty_or_free_has_no_version_to_keep(tmp_path: Path, bundles_once: dict[str, Path]) -> None:
    for place in (tmp_path / "free", tmp_path / "empty"):
        if place.name == "empty":
            place.mkdir()
        with versions_of(place) as versions, versions.draft() as draft:
            shutil.copytree(bundles_once["fp32"], draft)
            assert versions.accept() is None
        assert check_bundle(place) and Versions(place).numbers() == []
        assert not Versions(place).folder.exists()
