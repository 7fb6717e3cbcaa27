"""Writing: the same bytes each time, read back by a process that has never seen the student, and all or nothing."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.digest import student_digest
from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.golden import check_reload
from nexus_core.bundle.manifest import MANIFEST, CapabilityFacts, ContractFacts
from nexus_core.bundle.readme import headroom
from nexus_core.bundle.stored import as_stored, to_store
from nexus_core.bundle.writer import check_place, write_bundle, write_files
from nexus_core.errors import DataError, ModelError, UsageError
from nexus_core.student.arch import Decision

ASKED = {"reasoning": ("one two",), "uncensored": ("a",)}


@pytest.mark.parametrize("kind", ["fp32", "nf4"])
def test_the_same_student_gives_the_same_bytes(tiny: ModuleType, tmp_path: Path, kind: str) -> None:
    found = set()
    for place in ("first", "elsewhere/second"):
        folder = tmp_path / place / "bundle"
        tiny.make(folder, tiny.student(), quantisation=kind)
        found.add(student_digest(folder))
    assert len(found) == 1
    tiny.make(tmp_path / "other", replace(tiny.student(), router=None), quantisation=kind)
    assert student_digest(tmp_path / "other") not in found


def test_a_bundle_is_read_back_by_a_fresh_process_and_replaces_the_one_before(tiny: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    tiny.make(out, quantisation="fp16")
    before = read_manifest(out)
    manifest = write_bundle(out, tiny.parts(quantisation="int8"))
    assert read_manifest(out) == manifest != before
    assert check_bundle(out) == manifest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"], "nothing is left beside it"


def test_the_fresh_process_notices_what_differs(tiny: ModuleType, tmp_path: Path) -> None:
    """A weight of the expected student is moved by one unit in its last place: the file cannot hold that student."""
    _, expected = write_files(tmp_path / "bundle", tiny.parts())
    weight = expected.model.adapters["uncensored"].sites["0"].down.bias
    with torch.no_grad():
        weight[0] = torch.nextafter(weight[0], torch.tensor(torch.inf))
    with pytest.raises(ModelError, match='the adapter of "uncensored" comes out different'):
        check_reload(tmp_path / "bundle", expected, ASKED)


def test_a_bundle_that_cannot_be_read_back_is_not_put_in_place(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "bundle"
    tiny.make(out)
    before = student_digest(out)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/safetensors.py").write_text("raise ImportError('this machine is broken')")
    with pytest.raises(ModelError, match=r"cannot be read back: ImportError: this machine is broken"):
        write_bundle(out, tiny.parts(quantisation="fp16"))
    assert student_digest(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "bundle"]


def test_what_the_fresh_process_must_find_is_what_the_files_hold(tiny: ModuleType) -> None:
    own = tiny.student()
    files, how = to_store(own, "nf4")
    stored = as_stored(own, files, how)
    name = how.tensors[0]
    assert not torch.equal(stored.model.state_dict()[name], own.model.state_dict()[name])
    assert torch.equal(tiny.student().model.state_dict()[name], own.model.state_dict()[name]), (
        "the student is untouched"
    )


def test_only_a_bundle_or_nothing_is_replaced(tiny: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.txt").write_text("years of work")
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "thesis")
    for name in ("thesis", "file", "link", "nowhere/bundle"):
        with pytest.raises(UsageError):
            check_place(tmp_path / name)
    with pytest.raises(UsageError, match="is no bundle"):
        write_bundle(tmp_path / "thesis", tiny.parts())
    assert (tmp_path / "thesis/chapter1.txt").read_text() == "years of work"
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty")


def test_a_killed_writer_leaves_the_old_bundle_to_the_next_one(tiny: ModuleType, tmp_path: Path) -> None:
    tiny.make(tmp_path / ".bundle.old")
    (tmp_path / ".bundle.draft/adapters").mkdir(parents=True)
    bad = tiny.parts()
    bad = replace(bad, capabilities={name: own for name, own in bad.capabilities.items() if name != "tools"})
    with pytest.raises(DataError, match='"tools" is not both'):
        write_bundle(tmp_path / "bundle", bad)
    assert check_bundle(tmp_path / "bundle") and [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_a_part_that_does_not_exist_has_no_file(tiny: ModuleType, tmp_path: Path) -> None:
    folder = tiny.make(tmp_path / "bundle", replace(tiny.student(), router=None))
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["backbone", "adapters", "tokenizer", "README.md", "LICENSE", "verify_report.json", MANIFEST]
    )
    assert all(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_path_of_this_machine_does_not_travel(tiny: ModuleType, tmp_path: Path) -> None:
    own = tiny.student()
    source = "/data/me/models/base"
    decisions = (Decision("keep", f"backbone {source}", f"its weights lie in {source}"),)
    arch = replace(own.arch, backbone_source=source, decisions=decisions)
    manifest = read_manifest(tiny.make(tmp_path / "bundle", replace(own, arch=arch)))
    assert (manifest.student.backbone_source, manifest.student.decisions[0].subject) == ("base", "backbone base")
    assert b"/data" not in (tmp_path / "bundle" / MANIFEST).read_bytes()


def test_the_readme_says_what_was_kept_and_of_whom_it_was_learned(tiny: ModuleType, bundle: Path) -> None:
    text = (bundle / "README.md").read_text()
    assert (
        "| tools | exact_answer | 0.900 | 0.890 | 0.989 | 0.950 to 1.020 | 500 | at least 0.97 of the teacher |" in text
    )
    assert "| ada | MIT | distilled into reasoning |" in text
    assert "`uncensored`: isolated" in text and 'capability="reasoning"' in text
    code = text.split("```python\n")[1].split("```")[0]
    compile(code, "README.md", "exec")
    assert "ada: MIT" in (bundle / "LICENSE").read_text()


def test_the_worst_capability_comes_first(tiny: ModuleType, tmp_path: Path) -> None:
    parts = tiny.parts()
    result = parts.capabilities["tools"].result
    worse = replace(parts.capabilities["tools"], result=replace(result, student_score=0.874, ratio=0.9711))
    write_files(tmp_path / "bundle", replace(parts, capabilities={**parts.capabilities, "tools": worse}))
    text = (tmp_path / "bundle/README.md").read_text()
    assert text.index("| tools") < text.index("| reasoning")


def test_an_error_rate_of_nothing_is_not_the_worst(tiny: ModuleType) -> None:
    tools = tiny.parts().capabilities["tools"]
    contract = ContractFacts("wer", "own", "lower", 1.03, None)
    facts = CapabilityFacts("a", "text", 3, False, (), contract, tools.result, tools.options)
    perfect = replace(facts, result=replace(tools.result, teacher_score=0.1, student_score=0.0, ratio=0.0))
    just = replace(facts, result=replace(tools.result, teacher_score=0.1, student_score=0.103, ratio=1.03))
    assert headroom(perfect) == 1.0 and headroom(just) == pytest.approx(0.0)


def test_the_directory_that_one_is_in_is_no_place(
    tiny: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="names no directory of its own"):
        write_bundle(Path(), tiny.parts())


def test_unknown_quantisation(tiny: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int3"):
        tiny.make(tmp_path / "bundle", quantisation="int3")


def test_a_bundle_needs_no_file_outside_itself(bundle: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    shutil.move(bundle, moved)
    assert check_bundle(moved).name == "nexus_bundle_v1"


def test_the_readme_says_where_its_example_runs(tiny: ModuleType, tmp_path: Path) -> None:
    """The path in it is the bundle's name, as its bytes are the same wherever it is built."""
    texts = {(tiny.make(tmp_path / place, name="mine") / "README.md").read_text() for place in ("here", "there")}
    assert len(texts) == 1
    text = texts.pop()
    assert "from the directory that `mine` lies in (elsewhere, or renamed, give its path)" in text
    assert 'NexusModel.load("mine")' in text
