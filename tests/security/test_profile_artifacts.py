"""A hostile output directory: it cannot lead the store out of itself, run code, or ask for more memory than its size."""

from __future__ import annotations

import hashlib
import io
import json
import math
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.profiling.artifacts import ArtifactError, FindingKind, ProfileStore
from nexus_core.profiling.artifacts.codec import decode, encode
from nexus_core.profiling.artifacts.formats import read_npz, write_npz
from nexus_core.profiling.artifacts.layout import is_artifact, plan_file, profile_folder
from nexus_core.profiling.artifacts.scores import decode_reference, encode_reference
from nexus_core.profiling.model import BlockProfile, CapabilityProfile, Reference
from nexus_core.profiling.pca import PCA
from nexus_core.profiling.plan import PlanSettings, plan_capability
from nexus_core.types import Contract, Direction, Thresholds

NPZ = {"basis": ("f2", 2)}


def profile(teacher: str = "ada", capability: str = "math") -> CapabilityProfile:
    pca = PCA(np.zeros(8), np.eye(8)[:2], np.ones(2), 8.0, 20)
    block = BlockProfile("layers.1", 1, 8, "mean", "all", pca, (0, 1), np.ones((4, 2)), (0.1, 0.1), ())
    return CapabilityProfile(teacher, "abc", capability, "exact", Direction.HIGHER, 0.9, 4, 42, 1.0, (block,))


def put(store: ProfileStore, of: CapabilityProfile) -> None:
    contract = Contract(of.capability, "pack", "x", of.direction, 0.97, None, 1, 8, Thresholds(0.02, 0.005))
    store.write(of, plan_capability(of, contract, PlanSettings(0.97, 5, 10)))


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    store = ProfileStore(tmp_path / "out")
    put(store, profile())
    return store


def rewrite(store: ProfileStore, change: Callable[[dict[str, Any]], object]) -> None:
    path = store.root / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def plant(store: ProfileStore, name: str, content: bytes) -> None:
    """Replace a file of the profile, and make the manifest fit."""
    (store.root / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    rewrite(store, lambda manifest: manifest["files"].update({name: entry}))


NAMES = [
    "..",
    ".",
    "",
    "a/b",
    "../x",
    "/etc",
    "a\\b",
    "a\0b",
    "A",
    "ä",
    "a\n",
    ".hidden",
    "-x",
    "x" * 200,
    "c:x",
    "a b",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    store = ProfileStore(tmp_path / "out")
    for bad in (profile(teacher=name), profile(capability=name)):
        with pytest.raises(ArtifactError, match="cannot be the name of"):
            put(store, bad)
        with pytest.raises(ArtifactError, match="cannot be the name of"):
            store.read(bad.teacher, bad.capability)
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_name_leaves_the_directory(teacher: str, capability: str) -> None:
    root = Path("/somewhere")
    try:
        paths = [profile_folder(teacher, capability) + "/components.json", plan_file(teacher, capability)]
    except ArtifactError:
        return
    for path in paths:
        assert (root / path).resolve().is_relative_to(root)
        assert is_artifact(path)


@pytest.mark.parametrize(
    "path",
    [
        "../evil", "/etc/passwd", "profiles/../../evil", "profiles/ada/math/../../../evil", "profiles/ada/math/evil.sh",
        "profiles/ada/math/layer_01_meta.json", "profiles/ada/math/layer_1_meta.json\n", "profiles//math/components.json",
        "profiles/ada/math/components.json/x", ".lock", ".pending/commit.json", "",
    ],
)  # fmt: skip
def test_only_the_paths_of_the_layout_exist(store: ProfileStore, path: str) -> None:
    assert not is_artifact(path)
    rewrite(store, lambda manifest: manifest["files"].update({path: {"sha256": "0" * 64, "size": 1}}))
    with pytest.raises(ArtifactError, match="not the path of an artifact"):
        store.read("ada", "math")
    assert store.verify()[0].kind is FindingKind.CORRUPT


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "profiles/../../evil", "profiles/ada/math/evil"])
@pytest.mark.parametrize("key", ["write", "remove"])
def test_a_planted_journal_moves_and_removes_nothing_outside(store: ProfileStore, path: str, key: str) -> None:
    victim = store.root.parent / "evil"
    victim.write_text("mine")
    pending = store.root / ".pending"
    pending.mkdir()
    (pending / "0").write_text("theirs")
    (pending / "commit.json").write_text(json.dumps({"write": [], "remove": [], key: [path]}))
    with pytest.raises(ArtifactError, match="not the path of an artifact"):
        store.read("ada", "math")
    assert victim.read_text() == "mine"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"write": 1, "remove": []}', '{"write": [1], "remove": []}', "[" * 9999]
)
def test_a_damaged_journal_is_named(store: ProfileStore, text: str) -> None:
    (store.root / ".pending").mkdir()
    (store.root / ".pending" / "commit.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"commit\.json is damaged"):
        store.read("ada", "math")


def test_symbolic_links_are_not_followed(store: ProfileStore, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    secret = outside / "secret"
    secret.write_text("secret")
    target = store.root / "profiles" / "ada" / "math" / "components.json"
    content = target.read_bytes()
    target.unlink()
    target.symlink_to(secret)
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.read("ada", "math")
    assert [finding.path for finding in store.verify()] == ["profiles/ada/math/components.json"]
    target.unlink()
    target.write_bytes(content)
    (store.root / "profiles" / "bob").symlink_to(outside)
    with pytest.raises(ArtifactError, match="symbolic link"):
        put(store, profile("bob"))
    assert [path.name for path in outside.iterdir()] == ["secret"]
    assert store.read("ada", "math").teacher == "ada"


def test_a_link_in_place_of_the_journal_is_refused(store: ProfileStore, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "file").write_text("x")
    (store.root / ".pending").symlink_to(other)
    with pytest.raises(ArtifactError, match="symbolic link"):
        store.read("ada", "math")
    assert (other / "file").exists()


class Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("a pickle was run",))


def test_a_pickle_in_an_npz_is_refused_unread(store: ProfileStore) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, owner=np.array([Payload()], dtype=object), basis=np.zeros((2, 8)), mean=np.zeros(8))
    plant(store, "profiles/ada/math/layer_1_basis.npz", buffer.getvalue())
    with pytest.raises(ArtifactError, match=r"damaged: .* does not begin as numpy begins it"):
        store.read("ada", "math")
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_npz({"basis": np.array([Payload()], dtype=object)})


def npz(header: str, data: bytes = b"", compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    text = header.encode()
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + data
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("basis.npy", member)
    return buffer.getvalue()


def header(descr: str = "'<f2'", shape: str = "(2, 2)", fortran: str = "False") -> str:
    return f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


@pytest.mark.parametrize(
    "content",
    [
        npz(header(shape="(1000000000, 1000000000)")),
        npz(header(shape="(100000, 100000)"), b"\0" * 8),
        npz(header(shape="(-2, -2)"), b"\0" * 8),
        npz(header(shape="(2, 2, 1)"), b"\0" * 8),
        npz(header(shape="(" * 3000)),
        npz(header(shape="(2.0, 2)"), b"\0" * 8),
        npz(header(shape="2"), b"\0" * 4),
        npz(header(descr="'|O'"), b"\0" * 32),
        npz(header(descr="[('f2', '<f2')]"), b"\0" * 8),
        npz(header(descr="'>f2'"), b"\0" * 8),
        npz(header(descr="'<f8'"), b"\0" * 32),
        npz(header(descr="'zz'"), b"\0" * 8),
        npz(header(fortran="True"), b"\0" * 8),
        npz(header(), b"\0" * 7),
        npz(header(), b"\0" * 9),
        npz("{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (2, 2), }\n", b"\0" * 8),
        npz("\n" * 60000),
        npz("nonsense"),
        npz(header(), b"\0" * 8, zipfile.ZIP_LZMA),
        b"",
        b"PK\x05\x06" + b"\0" * 18,
        b"PK" + b"\xff" * 200,
    ],
    ids=range(22),
)
def test_a_damaged_or_hostile_npz_is_an_error_and_takes_no_memory(content: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError):
            read_npz("basis.npz", content, NPZ)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


def test_a_bomb_is_refused_by_its_declared_size() -> None:
    """100 MB of zeros in 100 kB: the header says four numbers."""
    content = npz(header(), b"\0" * 100_000_000)
    assert len(content) < 200_000
    tracemalloc.start()
    try:
        with pytest.raises(ArtifactError, match="size of its shape"):
            read_npz("basis.npz", content, NPZ)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_to_an_npz_is_an_error_or_changes_nothing(data: st.DataObject) -> None:
    good = write_npz({"basis": np.arange(12, dtype=np.float16).reshape(3, 4)})
    bad = bytearray(good)
    for _ in range(data.draw(st.integers(1, 4))):
        bad[data.draw(st.integers(0, len(bad) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(bad)))
    try:
        found = read_npz("basis.npz", bytes(bad[: cut or None]), NPZ)
    except ArtifactError:
        return
    np.testing.assert_array_equal(found["basis"], np.arange(12).reshape(3, 4))


@pytest.mark.parametrize("name", ["components.json", "heads_importance.json", "layer_1_meta.json"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_json_of_any_other_shape_is_an_error(name: str, data: st.DataObject) -> None:
    """What passes the hash, because the manifest was made to fit, still has to have the right types."""
    files = encode(profile())
    document = json.loads(files[name])
    key = data.draw(st.sampled_from(sorted(document)))
    junk = data.draw(
        st.sampled_from([None, True, -1, 10**400, 1e300, "x", [], [None], [[1]], {}, {"x": 1}, [{"block": 3}]])
    )
    if data.draw(st.booleans()):
        del document[key]
    else:
        document[key] = junk
    try:
        found = decode("here", {**files, name: json.dumps(document).encode()}, 0.0)
    except ArtifactError:
        return
    assert isinstance(found, CapabilityProfile)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"a": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"heads": [{"block": 1}]}', b"null"]
)
def test_damaged_json_is_named(store: ProfileStore, content: bytes) -> None:
    plant(store, "profiles/ada/math/heads_importance.json", content)
    with pytest.raises(ArtifactError):
        store.read("ada", "math")
    assert store.verify()


SCORES = Reference("ada", "abc", "math", "exact", Direction.HIGHER, None, 42, 2, 0.5, (1.0, 0.0), "0" * 64)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 100_000, b"null", b'{"scores": [NaN]}', b'{"version": 1}']
)
def test_damaged_scores_are_named(store: ProfileStore, content: bytes) -> None:
    store.write_reference(SCORES)
    plant(store, "profiles/ada/math/verify_scores.json", content)
    with pytest.raises(ArtifactError, match=r"verify_scores\.json"):
        store.reference("ada", "math")
    assert store.verify()


@pytest.mark.parametrize("junk", [None, True, -1, 10**400, 1e300, "x", [], [None], [[1]], [10**400, 1], {}, {"x": 1}])
@pytest.mark.parametrize("key", [*json.loads(encode_reference(SCORES)), "surprise"])
def test_scores_of_any_shape_are_read_or_refused(key: str, junk: object) -> None:
    document = {**json.loads(encode_reference(SCORES)), key: junk}
    try:
        found = decode_reference("here", json.dumps(document).encode())
    except ArtifactError:
        return
    assert len(found.scores) == found.n == 2
    assert all(math.isfinite(score) for score in (found.score, *found.scores))


def test_more_than_fifty_outputs_are_refused_on_reading_too(store: ProfileStore) -> None:
    line = json.dumps({"teacher": "ada", "capability": "math", "weights_hash": "abc"}) + "\n"
    plant(store, "profiles/ada/math/verify_outputs.jsonl", line.encode() * 51)
    with pytest.raises(ArtifactError, match="51 outputs, and at most 50"):
        store.read("ada", "math")


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 2}', '{"version": 1, "files": [], "profiles": {}}', "[" * 99999]
)
def test_a_damaged_manifest_is_named(store: ProfileStore, text: str) -> None:
    (store.root / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        store.read("ada", "math")
    findings = store.verify()
    assert (findings[0].kind, findings[0].path) == (FindingKind.CORRUPT, "manifest.json")


@pytest.mark.parametrize(
    "entry", [{"sha256": "x", "size": 1}, {"sha256": "0" * 64}, {"sha256": "0" * 64, "size": "1"}, 3]
)
def test_a_damaged_entry_of_the_manifest(store: ProfileStore, entry: object) -> None:
    rewrite(store, lambda manifest: manifest["files"].update({"protected_subspaces.json": entry}))
    with pytest.raises(ArtifactError, match=r"manifest\.json is damaged"):
        store.read("ada", "math")


def test_a_profile_that_the_manifest_invents(store: ProfileStore) -> None:
    rewrite(store, lambda m: m["profiles"].update({"eve": {"math": {"weights_hash": "x", "seconds": 1.0}}}))
    with pytest.raises(ArtifactError, match="missing"):
        store.read("eve", "math")
    rewrite(store, lambda m: m["profiles"].update({"../eve": {"math": {"weights_hash": "x", "seconds": 1.0}}}))
    with pytest.raises(ArtifactError, match="cannot be the name"):
        store.read("ada", "math")


def test_top_level_files_of_another_shape_stop_a_merge(store: ProfileStore) -> None:
    plant(store, "protected_subspaces.json", b'{"ada": [1]}')
    with pytest.raises(ArtifactError, match=r"protected_subspaces\.json is damaged"):
        put(store, profile("bob"))
