"""Artifacts: the names of the specification, the same bytes for the same content, and no state between old and new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus_core.profiling import artifacts
from nexus_core.profiling.artifacts import ArtifactError, ProfileStore
from nexus_core.profiling.artifacts.codec import decode, encode
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    PerturbationResult,
    VerifyOutput,
)
from nexus_core.profiling.overlap import OverlapOptions, TeacherCoordinates, measure_overlap
from nexus_core.profiling.pca import PCA, principal_angles


def test_the_names_are_those_of_the_specification(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile())
    assert set(made.tree(store.root)) == {
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


def test_what_is_read_is_what_was_written_at_float16(made: ModuleType, store: ProfileStore) -> None:
    written = made.profile()
    made.put(store, written)
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
def test_a_tolerance_is_kept_or_is_null(made: ModuleType, value: float | None) -> None:
    files = encode(made.profile(blocks=(replace(made.block(2), tolerance=value),)))
    assert json.loads(files["layer_2_meta.json"])["tolerance"] == value
    assert decode("here", files, 1.0).blocks[0].tolerance == value


def test_a_tolerance_that_is_no_number_is_damage(made: ModuleType) -> None:
    files = encode(made.profile(blocks=(made.block(2),)))
    meta = json.loads(files["layer_2_meta.json"])
    files["layer_2_meta.json"] = json.dumps({**meta, "tolerance": "much"}).encode()
    with pytest.raises(ArtifactError, match="here is damaged"):
        decode("here", files, 1.0)


def test_a_profile_from_before_intervals_and_tolerance_can_be_read(made: ModuleType) -> None:
    files = encode(made.profile(blocks=(made.block(2),)))
    meta, main = json.loads(files["layer_2_meta.json"]), json.loads(files["components.json"])
    del meta["tolerance"], main["reconstruction"][0]["low"], main["reconstruction"][0]["high"]
    files |= {"layer_2_meta.json": json.dumps(meta).encode(), "components.json": json.dumps(main).encode()}
    read = decode("here", files, 1.0)
    assert read.blocks[0].tolerance is None
    assert not read.reconstruction[0].has_interval


def test_the_manifest_has_size_and_hash_of_every_file(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile())
    manifest = json.loads((store.root / "manifest.json").read_text())
    on_disk = {path: content for path, content in made.tree(store.root).items() if path != "manifest.json"}
    assert manifest["files"] == {
        path: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)} for path, content in on_disk.items()
    }
    assert manifest["profiles"] == {"ada": {"math": {"weights_hash": made.profile().weights_hash, "seconds": 3.5}}}


def test_the_same_content_gives_the_same_bytes_at_any_time_and_in_any_order(
    made: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    profiles = [made.profile(), made.profile("ada", "code"), made.profile("bob", "math")]
    one, other = ProfileStore(tmp_path / "one"), ProfileStore(tmp_path / "other")
    made.put(one, *profiles)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("time.localtime", lambda *_: (2033, 5, 18, 3, 33, 20, 2, 138, 0))
    made.put(other, *reversed(profiles))
    assert made.tree(one.root) == made.tree(other.root)
    made.put(other, profiles[1])
    assert made.tree(one.root) == made.tree(other.root)


def test_how_long_it_took_changes_the_manifest_alone(made: ModuleType, tmp_path: Path) -> None:
    one, other = ProfileStore(tmp_path / "one"), ProfileStore(tmp_path / "other")
    made.put(one, made.profile())
    made.put(other, made.profile(seconds=99.0))
    changed = {path for path, content in made.tree(one.root).items() if made.tree(other.root)[path] != content}
    assert changed == {"manifest.json"}


def test_further_profiles_join_the_files_over_all(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile(), made.profile("bob", "code", blocks=(made.block(0),)), made.profile("ada", "code"))
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


def test_a_profile_replaces_its_earlier_self_and_leaves_nothing_behind(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile(), made.profile("bob"))
    made.put(store, made.profile(blocks=(made.block(7),)))
    names = sorted(path.name for path in (store.root / "profiles" / "ada" / "math").glob("layer_*"))
    assert names == ["layer_7_basis.npz", "layer_7_coeffs.npz", "layer_7_meta.json"]
    assert store.plan_documents()["protected_subspaces.json"]["ada"] == {"math": {"7": 3}}
    assert store.verify() == ()
    fresh = ProfileStore(store.root.parent / "fresh")
    made.put(fresh, made.profile(blocks=(made.block(7),)), made.profile("bob"))
    assert made.tree(fresh.root) == made.tree(store.root)


def test_removal_is_as_if_it_had_never_been(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile("bob"))
    before = made.tree(store.root)
    made.put(store, made.profile(), made.profile("ada", "code"))
    store.remove("ada", "code")
    assert store.profiles() == (("ada", "math"), ("bob", "math"))
    store.remove("ada")
    assert made.tree(store.root) == before
    with pytest.raises(ArtifactError, match="no profile of ada"):
        store.remove("ada")


def test_nothing_found_is_stored_as_that_with_what_was_tried(made: ModuleType, store: ProfileStore) -> None:
    tried = "20 components, 5000 samples, token dropout and noise: no drop above 0.004"
    empty = replace(
        made.block(3, k=0), components=(ComponentResult(0, ComponentClass.DISCARDABLE, 0, 0, 0, 9, 0.4),), note=tried
    )
    made.put(store, made.profile(blocks=(empty,)))
    read = store.read("ada", "math").blocks[0]
    assert (read.pca.k, read.pca.basis.shape, read.coords.shape, read.note) == (0, (0, 16), (12, 0), tried)
    assert store.plan_documents()["protected_subspaces.json"] == {"ada": {"math": {"3": 0}}}
    entry = store.plan_documents()["adapter_capacity_plan.json"]["teachers"]["ada"]["math"]
    assert entry["layers"]["3"]["rank"] == 0 and tried in entry["layers"]["3"]["reasons"][0]
    assert "no non-negotiable component was measured" in entry["special_handling"]
    assert store.verify() == ()


def test_no_block_and_no_output_at_all(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile(blocks=(), verify_outputs=(), heads=(), perturbations=(), pilot={}, reconstruction=()))
    assert store.read("ada", "math").blocks == ()
    assert store.verify() == ()


def test_a_number_that_is_none_is_null_with_a_reason(made: ModuleType, store: ProfileStore) -> None:
    odd = PerturbationResult("weight_noise", 0.1, "b", float("nan"), float("inf"), float("-inf"), 0.0, 3)
    made.put(store, made.profile(perturbations=(odd,), pilot={"b": float("nan")}, baseline_score=float("nan")))
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
def test_coordinates_of_any_size_survive_float16(made: ModuleType, values: list[float], exponent: int) -> None:
    coords = np.array(values)[:, None] * np.array([1.0, 10.0**exponent, 0.0])
    one = replace(made.block(), coords=coords)
    files = encode(made.profile(blocks=(one,)))
    read = decode("here", files, 0.0).blocks[0]
    assert np.isfinite(read.coords).all()
    tolerance = np.abs(coords).max(axis=0) * 1e-3
    assert (np.abs(read.coords - coords) <= tolerance).all()
    again = encode(replace(decode("here", files, 0.0), blocks=(replace(read),)))
    assert again["layer_2_meta.json"] == files["layer_2_meta.json"] or np.abs(coords).max() > 2**14


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            lambda block: {"verify_outputs": (VerifyOutput("s", "d", "x", 1.0),) * 51},
            "51 verification outputs, and at most 50",
        ),
        (lambda block: {"blocks": (block, block)}, "two blocks have one index"),
        (lambda block: {"blocks": (replace(block, coords=np.full((4, 3), np.nan)),)}, "coordinates hold NaN or Inf"),
        (lambda block: {"blocks": (replace(block, coords=np.ones((4, 2))),)}, "do not fit k=3"),
        (lambda block: {"blocks": (replace(block, component_indices=(1,)),)}, "do not fit k=3"),
        (lambda block: {"weights_hash": ""}, "without the hash"),
    ],
)
def test_what_does_not_fit_together_is_refused_before_a_byte_is_written(
    made: ModuleType, store: ProfileStore, changes: Callable[[BlockProfile], dict[str, object]], message: str
) -> None:
    bad = made.profile(**changes(made.block()))
    with pytest.raises(ArtifactError, match=message):
        store.write(bad, made.plan(bad))
    assert not store.root.exists()


def test_fifty_outputs_are_allowed(made: ModuleType, store: ProfileStore) -> None:
    made.put(store, made.profile(verify_outputs=tuple(VerifyOutput(f"s{i}", f"d{i}", "x", 1.0) for i in range(50))))
    assert len(store.read("ada", "math").verify_outputs) == 50


def test_a_plan_of_another_profile_is_refused(made: ModuleType, store: ProfileStore) -> None:
    with pytest.raises(ArtifactError, match="the plan is of another profile"):
        store.write(made.profile(), made.plan(made.profile("bob")))


def test_overlaps_stand_in_the_capacity_plan_until_they_are_measured_again(
    made: ModuleType, store: ProfileStore
) -> None:
    made.put(store, made.profile(), made.profile("bob"))
    rng = np.random.default_rng(0)
    coords = rng.normal(size=(40, 3))
    digests = tuple(map(str, range(40)))
    side = [TeacherCoordinates(name, digests, coords) for name in ("ada", "bob")]
    store.write_overlaps([measure_overlap("math", *side, OverlapOptions(0.8, 20))])
    made.put(store, made.profile("ada", "code"))
    rows = store.plan_documents()["adapter_capacity_plan.json"]["overlaps"]
    assert [(r["teacher_a"], r["teacher_b"], r["heavy"], round(r["svcca"], 6)) for r in rows] == [
        ("ada", "bob", True, 1)
    ]
    store.write_overlaps([])
    assert store.plan_documents()["adapter_capacity_plan.json"]["overlaps"] == []
    assert store.verify() == ()


def test_size_at_the_arithmetic_of_the_specification(made: ModuleType, store: ProfileStore) -> None:
    """Five layers of dim 4096, k=128, n=200: about 1.05 MB each, 3 to 6 MB for a teacher."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(4096, 128)))[0].T
    pca = PCA(rng.normal(size=4096), basis, np.geomspace(9, 1, 128), 400.0, 200)
    blocks = tuple(
        replace(
            made.block(i, k=0),
            dim=4096,
            pca=pca,
            component_indices=tuple(range(128)),
            coords=rng.normal(size=(200, 128)),
        )
        for i in range(5)
    )
    made.put(store, made.profile(blocks=blocks))
    total = sum(map(len, made.tree(store.root).values()))
    assert 3e6 < total < 6e6


def test_the_public_names() -> None:
    assert set(artifacts.__all__) == {"ArtifactError", "Finding", "FindingKind", "ProfileStore"}
