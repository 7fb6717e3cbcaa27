"""Artifacts: the names of the specification, the same bytes for the same content, and no state between old and new."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.profiling import artifacts
from nexus_core.profiling.artifacts import ArtifactError, FindingKind, ProfileStore
from nexus_core.profiling.artifacts.codec import decode, encode
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.overlap import OverlapOptions, TeacherCoordinates, measure_overlap
from nexus_core.profiling.pca import PCA, principal_angles
from nexus_core.profiling.plan import CapabilityPlan, PlanSettings, plan_capability
from nexus_core.types import Contract, Direction, Thresholds

SETTINGS = PlanSettings(variance_fraction=0.9, loss_weight_least=5, loss_weight_most=10)


def block(index: int = 2, k: int = 3, dim: int = 16, n: int = 12, seed: int = 0) -> BlockProfile:
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0][:k]
    variance = np.geomspace(9, 1, k)
    components = [
        ComponentResult(i, ComponentClass.NON_NEGOTIABLE, 0.3 - 0.05 * i, 0.1, 0.4, 50, 0.2, "all", i == 2)
        for i in range(k)
    ]
    components.append(ComponentResult(k, ComponentClass.DISCARDABLE, 0.0, -0.01, 0.004, 200, 0.01))
    return BlockProfile(
        block=f"model.layers.{index}",
        index=index,
        dim=dim,
        pooling="mean",
        positions="answer",
        pca=PCA(rng.normal(size=dim), basis, variance, 20.0, 900, "3 of 128 components: as the test wants it"),
        component_indices=tuple(range(k)),
        coords=rng.normal(size=(n, k)) * np.sqrt(variance),
        explained_variance=(0.45, 0.15, 0.05, 0.01),
        components=tuple(components),
        note="",
        tolerance=0.05 * index,
    )


def profile(teacher: str = "ada", capability: str = "math", **changes: object) -> CapabilityProfile:
    base = CapabilityProfile(
        teacher=teacher,
        weights_hash=hashlib.sha256(teacher.encode()).hexdigest(),
        capability=capability,
        metric="exact_answer",
        direction=Direction.HIGHER,
        baseline_score=0.9,
        n=12,
        seed=42,
        seconds=3.5,
        blocks=(block(2), block(10, k=2, seed=1)),
        heads=(HeadResult("model.layers.2", 0, 0.2, 0.1, 0.3), HeadResult("model.layers.2", 1, 0.0, -0.1, 0.1)),
        perturbations=(
            PerturbationResult("token_dropout", 0.1, None, 0.8, 0.1, 0.05, 0.15, 12),
            PerturbationResult("decoding", "temperature 0.7", None, 0.85, 0.05, 0.0, 0.1, 12),
        ),
        pilot={"model.layers.10": 0.4, "model.layers.2": 0.5},
        verify_outputs=(
            VerifyOutput("s1", "d1", "the answer is 4\u2028\n\ud800 ü", 1.0),
            VerifyOutput("s2", "d2", [1], 0.0),
        ),
        reconstruction=(
            ReconstructionResult("model.layers.2", 3, 0.9, 0.0, 0.01, 0.12, 2, -0.02, 0.03),
            ReconstructionResult(None, 5, 0.9, 0.0, 0.01, 0.12, 2),
        ),
        tokenizer={"class": "Tiny", "size": 64},
        notes=("2 samples were left out: no target",),
    )
    return replace(base, **changes)


def plan(of: CapabilityProfile) -> CapabilityPlan:
    thresholds = Thresholds(non_negotiable=0.02, recoverable=0.005)
    contract = Contract(of.capability, "pack", of.metric, of.direction, 0.97, None, 1, 512, thresholds)
    return plan_capability(of, contract, SETTINGS)


def put(store: ProfileStore, *profiles: CapabilityProfile) -> None:
    for each in profiles:
        store.write(each, plan(each))


def tree(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "run" / "niwt_stage2_output")


def test_the_names_are_those_of_the_specification(store: ProfileStore) -> None:
    put(store, profile())
    assert set(tree(store.root)) == {
        *(f"profiles/ada/math/layer_{i}_{w}" for i in (2, 10) for w in ("basis.npz", "coeffs.npz", "meta.json")),
        *(f"profiles/ada/math/{name}" for name in ("heads_importance.json", "components.json", "verify_outputs.jsonl")),
        "micro_preservation_plan/ada/math.yaml",
        *("protected_subspaces.json", "adapter_capacity_plan.json", "recovery_constraints.json", "manifest.json"),
    }
    folder = store.root / "profiles" / "ada" / "math"
    with np.load(folder / "layer_2_basis.npz", allow_pickle=False) as basis:
        assert (basis["basis"].shape, basis["basis"].dtype) == ((3, 16), np.float16)
    with np.load(folder / "layer_2_coeffs.npz", allow_pickle=False) as coeffs:
        assert (coeffs["coeffs"].shape, coeffs["coeffs"].dtype) == ((12, 3), np.float16)
    meta = json.loads((folder / "layer_2_meta.json").read_text())
    assert (meta["k"], meta["dim"], meta["pooling"], meta["tokenizer"]) == (
        3,
        16,
        "mean",
        {"class": "Tiny", "size": 64},
    )
    assert meta["explained_variance"] == [0.45, 0.15, 0.05, 0.01]
    assert len((folder / "verify_outputs.jsonl").read_bytes().splitlines()) == 2
    protected = json.loads((store.root / "protected_subspaces.json").read_text())
    assert protected == {"ada": {"math": {"2": 3, "10": 2}}}
    slots = yaml.safe_load((store.root / "micro_preservation_plan" / "ada" / "math.yaml").read_text())["layers"]["2"]
    assert slots["reserved_channels"] == 3 and [slot["component"] for slot in slots["slots"]] == [0, 1, 2]


def test_what_is_read_is_what_was_written_at_float16(store: ProfileStore) -> None:
    written = profile()
    put(store, written)
    read = store.read("ada", "math")
    for field in fields(CapabilityProfile):
        if field.name != "blocks":
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert list(read.pilot) == list(written.pilot)
    for old, new in zip(written.blocks, read.blocks, strict=True):
        for field in fields(BlockProfile):
            if field.name not in ("pca", "coords"):
                assert getattr(new, field.name) == getattr(old, field.name), field.name
        assert principal_angles(new.pca.basis, old.pca.basis).max() < 1e-3
        np.testing.assert_allclose(new.pca.basis, old.pca.basis, atol=5e-4)
        np.testing.assert_allclose(new.coords, old.coords, rtol=1e-3)
        np.testing.assert_allclose(new.pca.mean, old.pca.mean, rtol=1e-6)
        np.testing.assert_array_equal(new.pca.variance, old.pca.variance)
        assert (new.pca.n, new.pca.total_variance, new.pca.note) == (900, 20.0, old.pca.note)
        error = new.pca.reconstruct(new.coords) - old.pca.reconstruct(old.coords)
        assert np.abs(error).max() < 0.01
    assert store.verify() == ()


@pytest.mark.parametrize("value", [None, 0.0, 0.25, 1])
def test_a_tolerance_is_kept_or_is_null(value: float | None) -> None:
    files = encode(profile(blocks=(replace(block(2), tolerance=value),)))
    assert json.loads(files["layer_2_meta.json"])["tolerance"] == value
    assert decode("here", files, 1.0).blocks[0].tolerance == value


def test_a_tolerance_that_is_no_number_is_damage() -> None:
    files = encode(profile(blocks=(block(2),)))
    meta = json.loads(files["layer_2_meta.json"])
    files["layer_2_meta.json"] = json.dumps({**meta, "tolerance": "much"}).encode()
    with pytest.raises(ArtifactError, match="here is damaged"):
        decode("here", files, 1.0)


def test_a_profile_from_before_intervals_and_tolerance_can_be_read() -> None:
    files = encode(profile(blocks=(block(2),)))
    meta, main = json.loads(files["layer_2_meta.json"]), json.loads(files["components.json"])
    del meta["tolerance"], main["reconstruction"][0]["low"], main["reconstruction"][0]["high"]
    files |= {"layer_2_meta.json": json.dumps(meta).encode(), "components.json": json.dumps(main).encode()}
    read = decode("here", files, 1.0)
    assert read.blocks[0].tolerance is None
    assert not read.reconstruction[0].has_interval


def test_the_manifest_has_size_and_hash_of_every_file(store: ProfileStore) -> None:
    put(store, profile())
    manifest = json.loads((store.root / "manifest.json").read_text())
    on_disk = {path: content for path, content in tree(store.root).items() if path != "manifest.json"}
    assert manifest["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for path, content in on_disk.items()
    }
    assert manifest["profiles"] == {"ada": {"math": {"weights_hash": profile().weights_hash, "seconds": 3.5}}}


def test_the_same_content_gives_the_same_bytes_at_any_time_and_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = [profile(), profile("ada", "code"), profile("bob", "math")]
    one, other = ProfileStore(tmp_path / "one"), ProfileStore(tmp_path / "other")
    put(one, *profiles)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    put(other, *reversed(profiles))
    assert tree(one.root) == tree(other.root)
    put(other, profiles[1])
    assert tree(one.root) == tree(other.root)


def test_how_long_it_took_changes_the_manifest_alone(tmp_path: Path) -> None:
    one, other = ProfileStore(tmp_path / "one"), ProfileStore(tmp_path / "other")
    put(one, profile())
    put(other, profile(seconds=99.0))
    changed = {path for path, content in tree(one.root).items() if tree(other.root)[path] != content}
    assert changed == {"manifest.json"}


def test_further_profiles_join_the_files_over_all(store: ProfileStore) -> None:
    put(store, profile(), profile("bob", "code", blocks=(block(0),)), profile("ada", "code"))
    assert store.profiles() == (("ada", "code"), ("ada", "math"), ("bob", "code"))
    documents = store.plan_documents()
    assert documents["protected_subspaces.json"] == {
        "ada": {"code": {"2": 3, "10": 2}, "math": {"2": 3, "10": 2}},
        "bob": {"code": {"0": 3}},
    }
    capacity = documents["adapter_capacity_plan.json"]["teachers"]
    assert {t: list(c) for t, c in capacity.items()} == {"ada": ["code", "math"], "bob": ["code"]}
    assert documents["recovery_constraints.json"]["teachers"]["ada"]["math"]["layers"]["2"]["max_anchor_error"] == 0.1
    assert store.verify() == ()


def test_a_profile_replaces_its_earlier_self_and_leaves_nothing_behind(store: ProfileStore) -> None:
    put(store, profile(), profile("bob"))
    put(store, profile(blocks=(block(7),)))
    names = sorted(path.name for path in (store.root / "profiles" / "ada" / "math").glob("layer_*"))
    assert names == ["layer_7_basis.npz", "layer_7_coeffs.npz", "layer_7_meta.json"]
    assert store.plan_documents()["protected_subspaces.json"]["ada"] == {"math": {"7": 3}}
    assert store.verify() == ()
    fresh = ProfileStore(store.root.parent / "fresh")
    put(fresh, profile(blocks=(block(7),)), profile("bob"))
    assert tree(fresh.root) == tree(store.root)


def test_removal_is_as_if_it_had_never_been(store: ProfileStore) -> None:
    put(store, profile("bob"))
    before = tree(store.root)
    put(store, profile(), profile("ada", "code"))
    store.remove("ada", "code")
    assert store.profiles() == (("ada", "math"), ("bob", "math"))
    store.remove("ada")
    assert tree(store.root) == before
    with pytest.raises(ArtifactError, match="no profile of ada"):
        store.remove("ada")


def test_nothing_found_is_stored_as_that_with_what_was_tried(store: ProfileStore) -> None:
    tried = "20 components, 5000 samples, token dropout and noise: no drop above 0.004"
    empty = replace(
        block(3, k=0), components=(ComponentResult(0, ComponentClass.DISCARDABLE, 0, 0, 0, 9, 0.4),), note=tried
    )
    put(store, profile(blocks=(empty,)))
    read = store.read("ada", "math").blocks[0]
    assert (read.pca.k, read.pca.basis.shape, read.coords.shape, read.note) == (0, (0, 16), (12, 0), tried)
    assert store.plan_documents()["protected_subspaces.json"] == {"ada": {"math": {"3": 0}}}
    entry = store.plan_documents()["adapter_capacity_plan.json"]["teachers"]["ada"]["math"]
    assert entry["layers"]["3"]["rank"] == 0 and tried in entry["layers"]["3"]["reasons"][0]
    assert "no non-negotiable component was measured" in entry["special_handling"]
    assert store.verify() == ()


def test_no_block_and_no_output_at_all(store: ProfileStore) -> None:
    put(store, profile(blocks=(), verify_outputs=(), heads=(), perturbations=(), pilot={}, reconstruction=()))
    assert store.read("ada", "math").blocks == ()
    assert store.verify() == ()


def test_a_number_that_is_none_is_null_with_a_reason(store: ProfileStore) -> None:
    odd = PerturbationResult("weight_noise", 0.1, "b", float("nan"), float("inf"), float("-inf"), 0.0, 3)
    put(store, profile(perturbations=(odd,), pilot={"b": float("nan")}, baseline_score=float("nan")))
    text = (store.root / "profiles" / "ada" / "math" / "components.json").read_text()
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    row = json.loads(text)["perturbations"][0]
    assert (row["score"], row["score_reason"], row["drop_reason"], row["low_reason"], row["high"]) == (
        *(None, "not a number", "infinite", "minus infinite"),
        0.0,
    )
    read = store.read("ada", "math")
    assert np.isnan(read.perturbations[0].score) and read.perturbations[0].low == float("-inf")
    assert np.isnan(read.pilot["b"]) and np.isnan(read.baseline_score)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-1e6, 1e6).filter(lambda v: v == 0 or abs(v) > 1e-6), min_size=1, max_size=4),
    st.integers(-12, 12),
)
def test_coordinates_of_any_size_survive_float16(values: list[float], exponent: int) -> None:
    coords = np.array(values)[:, None] * np.array([1.0, 10.0**exponent, 0.0])
    one = replace(block(), coords=coords)
    files = encode(profile(blocks=(one,)))
    read = decode("here", files, 0.0).blocks[0]
    assert np.isfinite(read.coords).all()
    tolerance = np.abs(coords).max(axis=0) * 1e-3
    assert (np.abs(read.coords - coords) <= tolerance).all()
    again = encode(replace(decode("here", files, 0.0), blocks=(replace(read),)))
    assert again["layer_2_meta.json"] == files["layer_2_meta.json"] or np.abs(coords).max() > 2**14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"verify_outputs": (VerifyOutput("s", "d", "x", 1.0),) * 51}, "51 verification outputs, and at most 50"),
        ({"blocks": (block(2), block(2))}, "two blocks have one index"),
        ({"blocks": (replace(block(), coords=np.full((4, 3), np.nan)),)}, "coordinates hold NaN or Inf"),
        ({"blocks": (replace(block(), coords=np.ones((4, 2))),)}, "do not fit k=3"),
        ({"blocks": (replace(block(), component_indices=(1,)),)}, "do not fit k=3"),
        ({"weights_hash": ""}, "without the hash"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_byte_is_written(
    store: ProfileStore, changes: dict[str, object], message: str
) -> None:
    bad = profile(**changes)
    with pytest.raises(ArtifactError, match=message):
        store.write(bad, plan(bad))
    assert not store.root.exists()


def test_fifty_outputs_are_allowed(store: ProfileStore) -> None:
    put(store, profile(verify_outputs=tuple(VerifyOutput(f"s{i}", f"d{i}", "x", 1.0) for i in range(50))))
    assert len(store.read("ada", "math").verify_outputs) == 50


def test_a_plan_of_another_profile_is_refused(store: ProfileStore) -> None:
    with pytest.raises(ArtifactError, match="the plan is of another profile"):
        store.write(profile(), plan(profile("bob")))


def test_overlaps_stand_in_the_capacity_plan_until_they_are_measured_again(store: ProfileStore) -> None:
    put(store, profile(), profile("bob"))
    rng = np.random.default_rng(0)
    coords = rng.normal(size=(40, 3))
    digests = tuple(map(str, range(40)))
    side = [TeacherCoordinates(name, digests, coords) for name in ("ada", "bob")]
    store.write_overlaps([measure_overlap("math", *side, OverlapOptions(0.8, 20))])
    put(store, profile("ada", "code"))
    rows = store.plan_documents()["adapter_capacity_plan.json"]["overlaps"]
    assert [(r["teacher_a"], r["teacher_b"], r["heavy"], round(r["svcca"], 6)) for r in rows] == [
        ("ada", "bob", True, 1)
    ]
    store.write_overlaps([])
    assert store.plan_documents()["adapter_capacity_plan.json"]["overlaps"] == []
    assert store.verify() == ()


# --- what is wrong is named -----------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", sorted(encode(profile())))
def test_a_changed_or_missing_file_is_named_and_the_profile_refused(store: ProfileStore, name: str) -> None:
    put(store, profile(), profile("bob"))
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


def test_damage_to_the_files_over_all_is_named_and_stops_a_merge(store: ProfileStore) -> None:
    put(store, profile())
    flip(store.root / "adapter_capacity_plan.json")
    assert [str(f).split(": ")[:2] for f in store.verify()] == [["corrupt", "adapter_capacity_plan.json"]]
    with pytest.raises(ArtifactError, match=r"corrupt: adapter_capacity_plan\.json"):
        put(store, profile("bob"))


def test_a_file_that_nobody_listed_is_extra_but_other_directories_are_not_ours(store: ProfileStore) -> None:
    put(store, profile())
    for path in ("profiles/ada/math/layer_3_basis.npz", "profiles/raw.pt", "notes.txt", "cache/ada/0.bin"):
        (store.root / path).parent.mkdir(parents=True, exist_ok=True)
        (store.root / path).write_bytes(b"x")
    found = [(finding.kind, finding.path) for finding in store.verify()]
    assert found == [
        (FindingKind.EXTRA, path) for path in ("notes.txt", "profiles/ada/math/layer_3_basis.npz", "profiles/raw.pt")
    ]


def test_another_teachers_profile_under_this_name_is_refused_by_name(store: ProfileStore) -> None:
    """Each file says whose it is: it does not help that the manifest was made to fit."""
    put(store, profile(), profile("bob"))
    for name in encode(profile()):
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


def test_a_foreign_file_without_a_fitting_manifest_is_foreign_too(store: ProfileStore) -> None:
    put(store, profile(), profile("bob", blocks=(block(2, dim=32),)))
    for name in ("layer_2_basis.npz", "components.json"):
        foreign = (store.root / "profiles" / "bob" / "math" / name).read_bytes()
        (store.root / "profiles" / "ada" / "math" / name).write_bytes(foreign)
    kinds = {finding.path.rsplit("/", 1)[1]: finding.kind for finding in store.verify()}
    assert kinds == {"layer_2_basis.npz": FindingKind.FOREIGN, "components.json": FindingKind.FOREIGN}


def test_other_weights_under_the_same_name(store: ProfileStore) -> None:
    put(store, profile())
    changed = profile("ada", "code", weights_hash="f" * 64)
    with pytest.raises(ArtifactError, match=r"belongs to other weights of ada: .* not ffffffffffff"):
        put(store, changed)
    with pytest.raises(ArtifactError, match="belongs to other weights of ada"):
        store.read("ada", "math", weights_hash="f" * 64)
    assert store.read("ada", "math", weights_hash=profile().weights_hash).teacher == "ada"
    (finding,) = store.verify({"ada": "f" * 64, "bob": "0" * 64})
    assert (finding.kind, finding.path) == (FindingKind.FOREIGN, "profiles/ada/math")
    store.remove("ada")
    put(store, changed)
    assert store.verify({"ada": "f" * 64}) == ()


def test_a_directory_without_a_manifest(store: ProfileStore) -> None:
    with pytest.raises(ArtifactError, match="is not a directory"):
        store.verify()
    put(store, profile())
    (store.root / "manifest.json").unlink()
    findings = store.verify()
    assert (findings[0].kind, findings[0].path) == (FindingKind.MISSING, "manifest.json")
    assert len(findings) == 1 + len(tree(store.root))
    for act in (lambda: put(store, profile("bob")), lambda: store.read("ada", "math"), lambda: store.remove("ada")):
        with pytest.raises(ArtifactError, match=r"no manifest\.json"):
            act()


def test_an_unknown_profile_is_said_with_those_that_are_there(store: ProfileStore) -> None:
    put(store, profile())
    with pytest.raises(ArtifactError, match="no profile of bob/math") as caught:
        store.read("bob", "math")
    assert caught.value.hint == "it has: ada/math"


# --- a crash anywhere -----------------------------------------------------------------------------------------------


class Killed(BaseException):
    """As a signal: nothing below may swallow it."""


def killed_at(patch: pytest.MonkeyPatch, step: int) -> Callable[[], int]:
    """Make the `step`-th operation that changes the disk fail; gives the number of operations seen."""
    seen = 0

    def guard(real: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **more: object) -> object:
            nonlocal seen
            seen += 1
            if seen == step:
                raise Killed
            return real(*arguments, **more)

        return call

    patch.setattr(os, "fsync", guard(lambda _: None))
    patch.setattr(os, "replace", guard(os.replace))
    patch.setattr(shutil, "rmtree", guard(shutil.rmtree))
    patch.setattr(Path, "unlink", guard(Path.unlink))
    patch.setattr(Path, "mkdir", guard(Path.mkdir))
    return lambda: seen


def test_a_writer_killed_at_any_step_leaves_the_old_state_or_the_new_one(tmp_path: Path) -> None:
    first, second = profile(blocks=(block(2),)), profile(blocks=(block(7),))
    before, after = ProfileStore(tmp_path / "before"), ProfileStore(tmp_path / "after")
    put(before, first)
    put(after, first, second)
    old, new = tree(before.root), tree(after.root)
    outcomes: list[bool] = []
    finished = False
    while not finished:
        step = len(outcomes) + 1
        store = ProfileStore(tmp_path / f"run{step}")
        shutil.copytree(before.root, store.root)
        with pytest.MonkeyPatch.context() as patch:
            count = killed_at(patch, step)
            with contextlib.suppress(Killed):
                put(store, second)
            finished = count() < step
        assert store.verify() == (), step  # opening it finishes or discards what was begun
        state = tree(store.root)
        assert state in (old, new), step
        outcomes.append(state == new)
    assert len(outcomes) > 40
    assert outcomes == sorted(outcomes), "once the change is committed it is never lost"
    assert not outcomes[0] and outcomes[-2]


def test_a_killed_first_write_leaves_nothing_that_hinders_the_next(tmp_path: Path) -> None:
    for step in (2, 5, 9):
        store = ProfileStore(tmp_path / str(step))
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, step)
            with pytest.raises(Killed):
                put(store, profile())
        put(store, profile())
        assert store.verify() == ()


def test_a_full_disk_is_said_and_leaves_the_old_state(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, profile())
    before = tree(store.root)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(ArtifactError, match="cannot be written \\(No space left on device\\)"):
            put(store, profile("bob"))
    assert store.verify() == ()
    assert tree(store.root) == before


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    script = textwrap.dedent(
        f"""
        import importlib.util, sys
        from pathlib import Path
        spec = importlib.util.spec_from_file_location("shared", {str(Path(__file__))!r})
        shared = importlib.util.module_from_spec(spec); sys.modules["shared"] = shared; spec.loader.exec_module(shared)
        store = shared.ProfileStore(Path(sys.argv[1]))
        for capability in ("math", "code", "tools"):
            shared.put(store, shared.profile(sys.argv[2], capability))
        """
    )
    commands = [[sys.executable, "-c", script, str(tmp_path / "out"), teacher] for teacher in ("ada", "bob")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    store = ProfileStore(tmp_path / "out")
    assert len(store.profiles()) == 6
    assert store.verify() == ()


def test_a_directory_that_may_not_be_written_can_be_read(store: ProfileStore, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, profile())
    (store.root / ".lock").unlink(missing_ok=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert store.read("ada", "math").teacher == "ada"
    assert store.verify() == ()
    assert not (store.root / ".lock").exists()
    (store.root / ".pending").mkdir()
    with pytest.raises(ArtifactError, match="unfinished change and is read-only"):
        store.read("ada", "math")


def test_size_at_the_arithmetic_of_the_specification(store: ProfileStore) -> None:
    """Five layers of dim 4096, k=128, n=200: about 1.05 MB each, 3 to 6 MB for a teacher."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4096, 128)))[0].T
    pca = PCA(rng.normal(size=4096), basis, np.geomspace(9, 1, 128), 400.0, 200)
    blocks = tuple(
        replace(
            block(i, k=0),
            dim=4096,
            pca=pca,
            component_indices=tuple(range(128)),
            coords=rng.normal(size=(200, 128)),
        )
        for i in range(5)
    )
    put(store, profile(blocks=blocks))
    total = sum(map(len, tree(store.root).values()))
    assert 3e6 < total < 6e6


def test_the_public_names() -> None:
    assert set(artifacts.__all__) == {"ArtifactError", "Finding", "FindingKind", "ProfileStore"}
