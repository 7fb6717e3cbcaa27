"""Artifacts: whatever is missing, changed, extra or of another teacher is named, and nothing is read from it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from nexus_core.profiling.artifacts import ArtifactError, FindingKind, ProfileStore
from nexus_core.profiling.artifacts.codec import encode


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


FILES = (
    *(f"layer_{index}_{what}" for index in (2, 10) for what in ("basis.npz", "coeffs.npz", "meta.json")),
    *("components.json", "heads_importance.json", "verify_outputs.jsonl"),
)


def test_these_are_all_files_of_a_profile(made: ModuleType) -> None:
    assert set(FILES) == set(encode(made.profile()))


@pytest.mark.parametrize("name", FILES)
def test_a_changed_or_missing_file_is_named_and_the_profile_refused(
    made: ModuleType, store: ProfileStore, name: str
) -> None:
    made.put(store, made.profile(), made.profile("bob"))
    path = store.root / "profiles" / "ada" / "math" / name
    flip(path)
    (finding,) = store.verify()
    assert (finding.kind, finding.path) == (FindingKind.CORRUPT, f"profiles/ada/math/{name}")
    with pytest.raises(ArtifactError, match=f"corrupt: profiles/ada/math/{name}"):
        store.read("ada", "math")
    path.unlink()
    (finding,) = store.verify()
    assert (finding.kind, finding.path) == (FindingKind.MISSING, f"profiles/ada/math/{name}")
    with pytest.raises(ArtifactError, match=f"missing: profiles/ada/math/{name}"):
        store.read("ada", "math")
    assert store.read("bob", "math").teacher == "bob"


def test_damage_to_the_files_over_all_is_named_and_stops_a_merge(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile())
    flip(store.root / "adapter_capacity_plan.json")
    assert [str(f).split(": ")[:2] for f in store.verify()] == [["corrupt", "adapter_capacity_plan.json"]]
    with pytest.raises(ArtifactError, match=r"corrupt: adapter_capacity_plan\.json"):
        made.put(store, made.profile("bob"))


def test_a_file_that_nobody_listed_is_extra_but_other_directories_are_not_ours(
    made: ModuleType, store: ProfileStore
) -> None:
    made.put(store, made.profile())
    for path in ("profiles/ada/math/layer_3_basis.npz", "profiles/raw.pt", "notes.txt", "cache/ada/0.bin"):
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_bytes(b"x")
    found = [(finding.kind, finding.path) for finding in store.verify()]
    assert found == [
        (FindingKind.EXTRA, path) for path in ("notes.txt", "profiles/ada/math/layer_3_basis.npz", "profiles/raw.pt")
    ]


def test_another_teachers_profile_under_this_name_is_refused_by_name(made: ModuleType, store: ProfileStore) -> None:
    """Each file says whose it is: it does not help that the manifest was made to fit."""
    made.put(store, made.profile(), made.profile("bob"))
    for name in encode(made.profile()):
        foreign = (store.root / "profiles" / "bob" / "math" / name).read_bytes()
        (store.root / "profiles" / "ada" / "math" / name).write_bytes(foreign)
        manifest = json.loads((store.root / "manifest.json").read_text())
        entry = {"sha256": hashlib.sha256(foreign).hexdigest(), "size": len(foreign)}
        manifest["files"][f"profiles/ada/math/{name}"] = entry
        (store.root / "manifest.json").write_text(json.dumps(manifest))
        findings = {finding.path: finding for finding in store.verify()}
        finding = findings[f"profiles/ada/math/{name}"]
        assert finding.kind is FindingKind.FOREIGN
        assert "it belongs to bob/math" in finding.message and "not to ada/math" in finding.message
    with pytest.raises(ArtifactError, match="belongs to bob/math"):
        store.read("ada", "math")


def test_a_foreign_file_without_a_fitting_manifest_is_foreign_too(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile(), made.profile("bob", blocks=(made.block(2, dim=32),)))
    for name in ("layer_2_basis.npz", "components.json"):
        foreign = (store.root / "profiles" / "bob" / "math" / name).read_bytes()
        (store.root / "profiles" / "ada" / "math" / name).write_bytes(foreign)
    kinds = {finding.path.rsplit("/", 1)[1]: finding.kind for finding in store.verify()}
    assert kinds == {"layer_2_basis.npz": FindingKind.FOREIGN, "components.json": FindingKind.FOREIGN}


def test_other_weights_under_the_same_name(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile())
    changed = made.profile("ada", "code", weights_hash="f" * 64)
    with pytest.raises(ArtifactError, match=r"belongs to other weights of ada: .* not ffffffffffff"):
        made.put(store, changed)
    with pytest.raises(ArtifactError, match="belongs to other weights of ada"):
        store.read("ada", "math", weights_hash="f" * 64)
    assert store.read("ada", "math", weights_hash=made.profile().weights_hash).teacher == "ada"
    (finding,) = store.verify({"ada": "f" * 64, "bob": "0" * 64})
    assert (finding.kind, finding.path) == (FindingKind.FOREIGN, "profiles/ada/math")
    store.remove("ada")
    made.put(store, changed)
    assert store.verify({"ada": "f" * 64}) == ()


def test_a_directory_without_a_manifest(made: ModuleType, store: ProfileStore) -> None:
    with pytest.raises(ArtifactError, match="is not a directory"):
        store.verify()
    made.put(store, made.profile())
    (store.root / "manifest.json").unlink()
    findings = store.verify()
    assert (findings[0].kind, findings[0].path) == (FindingKind.MISSING, "manifest.json")
    assert len(findings) == 1 + len(made.tree(store.root))
    for act in (
        lambda: made.put(store, made.profile("bob")),
        lambda: store.read("ada", "math"),
        lambda: store.remove("ada"),
    ):
        with pytest.raises(ArtifactError, match=r"no manifest\.json"):
            act()


def test_an_unknown_profile_is_said_with_those_that_are_there(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile())
    with pytest.raises(ArtifactError, match="no profile of bob/math") as caught:
        store.read("bob", "math")
    assert caught.value.hint == "it has: ada/math"
