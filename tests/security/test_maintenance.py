"""What maintenance finds on the disk is somebody else's too: links, names that lead elsewhere, versions that are none."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from nexus_core.bundle.digest import student_digest
from nexus_core.cli.main import main
from nexus_core.errors import ModelError, NexusError, RegistryError, UsageError
from nexus_core.pipeline.rollback import Versions, list_versions, rollback
from nexus_core.pipeline.teachers import NewTeacher, RegistryFile
from nexus_core.plugins import Plugins
from nexus_core.registry import Fate
from nexus_core.resources import shared_path

NEW = {"source": "a/b", "capabilities": ("code",)}


@pytest.fixture(scope="session")
def bundle_once(module_at: Callable[[Path], ModuleType], tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = module_at(Path(__file__).parents[1] / "bundle/tiny_bundle.py")
    return tiny.make(tmp_path_factory.mktemp("versions") / "bundle", quantisation="fp16")


@pytest.fixture
def versioned(bundle_once: Path, tmp_path: Path) -> Path:
    """A bundle with one version, and a thesis that has nothing to do with either."""
    shutil.copytree(bundle_once, tmp_path / "bundle")
    shutil.copytree(bundle_once, tmp_path / "bundle.versions/0001")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    return tmp_path / "bundle"


def is_untouched(root: Path) -> bool:
    return (root / "thesis/chapter.txt").read_text() == "years of work"


# --- versions -----------------------------------------------------------------------------------------------------------


def test_a_folder_of_versions_that_is_a_link_is_refused(versioned: Path, tmp_path: Path) -> None:
    shutil.move(tmp_path / "bundle.versions", tmp_path / "elsewhere")
    (tmp_path / "bundle.versions").symlink_to(tmp_path / "elsewhere")
    for act in (rollback, list_versions):
        with pytest.raises(UsageError, match="is a symbolic link"):
            act(versioned)
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["0001"]


@pytest.mark.parametrize("name", ["0002", ".new", ".back-0002"])
@pytest.mark.parametrize("what", ["link", "dangling", "file", "pipe"])
def test_a_version_that_is_no_directory_of_its_own_is_named(
    versioned: Path, tmp_path: Path, name: str, what: str
) -> None:
    place, before = tmp_path / "bundle.versions" / name, student_digest(versioned)
    if what == "link":
        place.symlink_to(tmp_path / "thesis")
    elif what == "dangling":
        place.symlink_to(tmp_path / "nowhere")
    elif what == "file":
        place.write_text("x")
    else:
        os.mkfifo(place)
    for act in (rollback, list_versions):
        with pytest.raises(ModelError, match="is no directory of its own"):
            act(versioned)
    assert student_digest(versioned) == before and is_untouched(tmp_path)


@pytest.mark.parametrize("name", [".draft", ".gone-0002"])
def test_a_link_among_what_is_cleared_away_goes_alone(versioned: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "bundle.versions" / name).symlink_to(tmp_path / "thesis")
    list_versions(versioned)
    assert is_untouched(tmp_path) and not (tmp_path / "bundle.versions" / name).is_symlink()


@pytest.mark.parametrize("name", ["..", "0000x", "１２３４", "00002", ".back-..", ".back-0002x", "-1", "0002.zip"])
def test_other_names_are_no_versions(versioned: Path, tmp_path: Path, name: str) -> None:
    if name != "..":
        shutil.copytree(versioned, tmp_path / "bundle.versions" / name)
    assert [version.number for version in list_versions(versioned)] == [1]
    assert name == ".." or (tmp_path / "bundle.versions" / name).is_dir()


@pytest.mark.parametrize("inside", ["link", "pipe", "nested"])
def test_a_version_with_something_else_inside_stays_where_it_is(versioned: Path, tmp_path: Path, inside: str) -> None:
    version, before = tmp_path / "bundle.versions/0001", student_digest(versioned)
    if inside == "link":
        (version / "README.md").unlink()
        (version / "README.md").symlink_to(tmp_path / "thesis/chapter.txt")
    elif inside == "pipe":
        os.mkfifo(version / "adapters/more.safetensors")
    else:
        shutil.copytree(versioned, version / "bundle")
    with pytest.raises(NexusError):
        rollback(versioned)
    assert student_digest(versioned) == before and version.is_dir() and is_untouched(tmp_path)


@pytest.mark.parametrize("target", ["thesis", "link", "", "..", "bundle/../thesis"])
def test_only_a_bundle_changes_places(versioned: Path, tmp_path: Path, target: str, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(versioned)
    for name in ("thesis", "link"):
        shutil.copytree(tmp_path / "bundle.versions", tmp_path / f"{name}.versions")
    with pytest.raises(NexusError):
        rollback(Path(target))
    assert is_untouched(tmp_path) and (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("to", ["0", "-1", "../0001", "1e3", "９"])
def test_a_version_is_named_by_a_number(versioned: Path, to: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = student_digest(versioned)
    with pytest.raises(SystemExit) as ended:
        main(["bundle", "rollback", str(versioned), "--to", to])
    assert ended.value.code == 2 and student_digest(versioned) == before


def test_a_version_of_other_weights_in_the_same_manifest_stays(versioned: Path, tmp_path: Path) -> None:
    """As somebody with ill intent would: every size is right."""
    file = tmp_path / "bundle.versions/0001/adapters/reasoning_adapter.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(bytes(raw))
    with pytest.raises(ModelError, match=r"reasoning_adapter\.safetensors was changed"):
        rollback(versioned)
    assert Versions(versioned).numbers() == [1]


# --- the registry -------------------------------------------------------------------------------------------------------


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return Path(shutil.copy(shared_path("registry.yaml"), tmp_path / "registry.yaml"))


@pytest.mark.parametrize(
    "id_", ["..", "../x", "a/b", "/etc", ".hidden", "a\n", "a\x00", "A", "", "-x", "ａ", "x" * 200]
)
def test_an_id_names_a_directory_below_the_run(registry: Path, id_: str) -> None:
    before = registry.read_bytes()
    if id_:
        with pytest.raises(UsageError, match="cannot be an id"):
            RegistryFile(registry).add(NewTeacher(**NEW, id=id_), Plugins([]))
    with pytest.raises(RegistryError, match="no teacher"):
        RegistryFile(registry).set_aside(id_, Fate("drop", "x"))
    assert registry.read_bytes() == before


@pytest.mark.parametrize(
    "text",
    [
        "a: b",
        "x\n  evil:\n    name: Evil",
        "{a: 1}",
        "'",
        '"',
        "&a *a",
        "!!python/name:os.system",
        "%",
        "\u2028x",
        "null",
        "1e3",
    ],
)
def test_words_of_the_user_are_words_in_the_file(registry: Path, text: str) -> None:
    """Whatever they look like in YAML, they add no row and no key."""
    file, before = RegistryFile(registry), registry.read_text()
    edit = file.add(NewTeacher(**NEW, id="mine", name=f"N {text}", best_feature=text), Plugins([]))
    assert (edit.row.best_feature, edit.row.name) == (text, f"N {text}")
    fated = file.set_aside("mine", Fate("drop", text))
    assert fated.row.fate is not None and fated.row.fate.reason == " ".join(text.split())
    assert set(fated.registry.teachers) - set(file.set_aside("kimi-k2.5", Fate("drop", "x")).registry.teachers) == set()
    assert registry.read_text().startswith(before[: before.index("kimi-k2.5:")])
    assert "evil" not in fated.registry.teachers


@pytest.mark.parametrize("where", ["registry.yaml/x", "nowhere/registry.yaml", "folder"])
def test_a_place_that_no_registry_can_be_written_to(registry: Path, tmp_path: Path, where: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(NexusError) as caught:
        RegistryFile(tmp_path / where).add(NewTeacher(**NEW), Plugins([]))
    assert caught.value.hint and not list((tmp_path / "folder").iterdir())


def test_a_hostile_registry_is_refused_before_it_is_changed(tmp_path: Path) -> None:
    path = tmp_path / "registry.yaml"
    for text in ("a: &a [*a]\n", "!!python/object/apply:os.system [id]\n", "[" * 100_000, json.dumps({"version": 2})):
        path.write_text(text)
        with pytest.raises(RegistryError):
            RegistryFile(path).set_aside("ada", Fate("drop", "x"))
        assert path.read_text() == text


def test_a_directory_that_has_no_name_in_utf8_is_refused(registry: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"models-\xff")
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text('{"model_type": "llama"}')
    before = registry.read_bytes()
    with pytest.raises(NexusError):
        RegistryFile(registry).add(NewTeacher(tmp_path / name, id="x", name="X", capabilities=("code",)), Plugins())
    assert registry.read_bytes() == before
