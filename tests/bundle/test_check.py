"""Digest, difference, and whether a bundle says what its report says."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.bundle.check import check_bundle, results_of
from nexus_core.bundle.diff import differences
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.disk import read_manifest
from nexus_core.errors import ContractFailed, DataError, ModelError


def test_the_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    def made(name: str, files: dict[str, str]) -> str:
        for file, text in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_text(text)
        return student_digest(tmp_path / name)

    one = made("one", {"a": "1", "b/c": "2"})
    assert one == made("two", {"b/c": "2", "a": "1"})
    assert (
        len({one, made("3", {"a": "1", "b/c": "3"}), made("4", {"a": "1", "b/d": "2"}), made("5", {"a": "1b/c2"})}) == 4
    )
    (tmp_path / "one/link").symlink_to("a")
    with pytest.raises(ModelError, match="link is no regular file"):
        student_digest(tmp_path / "one")
    with pytest.raises(ModelError, match="no such directory"):
        student_digest(tmp_path / "nowhere")


def test_what_differs_between_two_bundles(tiny: ModuleType, bundle: Path, tmp_path: Path) -> None:
    first = read_manifest(bundle)
    assert differences(first, first) == []
    second = read_manifest(tiny.make(tmp_path / "second", quantisation="fp16", name="other"))
    found = {each.what: (each.left, each.right) for each in differences(first, second)}
    assert found["quantisation.kind"] == ('"fp32"', '"fp16"') and found["name"] == ('"nexus_bundle_v1"', '"other"')
    assert {"backbone/backbone.safetensors", "adapters/tools_adapter.safetensors", "README.md"} <= set(found)
    assert "router/router.safetensors" not in found and "capabilities.tools.result.ratio" not in found
    (tmp_path / "second/LICENSE").unlink()
    tiny.edit(tmp_path / "second", lambda m: m["files"].pop("LICENSE"))
    gone = {each.what: each.right for each in differences(first, read_manifest(tmp_path / "second"))}
    assert gone["LICENSE"] == ""


def test_a_whole_bundle_is_said_to_be_one(bundle: Path) -> None:
    assert set(check_bundle(bundle).capabilities) == {"reasoning", "tools", "uncensored"}


@pytest.mark.parametrize("name", ["adapters/tools_adapter.safetensors", "router/router.safetensors", "LICENSE"])
def test_an_incomplete_bundle_is_not(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing"):
        check_bundle(bundle)


@pytest.mark.parametrize(
    ("change", "error", "word"),
    [
        (lambda r: r["capabilities"]["tools"].update(student_score=0.99), ModelError, 'result of "tools"'),
        (lambda r: r["capabilities"]["tools"].update(retain_fraction=0.5), ModelError, 'contract of "tools"'),
        (lambda r: r["capabilities"].pop("tools"), ModelError, 'result of "tools"'),
        (lambda r: r.update(verdict="fail"), ContractFailed, "did not pass"),
        (lambda r: r["capabilities"]["tools"].update(verdict="fail"), ContractFailed, "did not pass"),
        (lambda r: r.pop("capabilities"), DataError, "holds no results"),
        (lambda r: r.update(capabilities=[1]), DataError, "holds no results"),
    ],
)
def test_the_manifest_and_the_report_agree(
    tiny: ModuleType, bundle: Path, change: Callable[[Any], Any], error: type[Exception], word: str
) -> None:
    path = bundle / "verify_report.json"
    report = json.loads(path.read_text())
    change(report)
    path.write_text(json.dumps(report))
    tiny.relist(bundle)
    with pytest.raises(error, match=word):
        check_bundle(bundle)


def test_a_variant_is_held_to_its_own_results(tiny: ModuleType, tmp_path: Path) -> None:
    report = tiny.report()
    assert results_of(report, "fp32", "here")["tools"].student_score == 0.89
    report["variants"]["nf4"]["verdict"] = "fail"
    with pytest.raises(ContractFailed, match="nf4 did not pass"):
        results_of(report, "nf4", "here")
    del report["variants"]["int8"]
    with pytest.raises(DataError, match="no results for int8"):
        results_of(report, "int8", "here")


def test_an_unpacked_archive_without_its_manifest_is_no_bundle(bundle: Path) -> None:
    shutil.move(bundle / "manifest.json", bundle / "tokenizer/manifest.json")
    with pytest.raises(DataError, match="not a bundle"):
        check_bundle(bundle)
