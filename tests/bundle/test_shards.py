"""Files above the limit are split, and read as if they were not."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from nexus_core.bundle.disk import read_manifest
from nexus_core.bundle.reader import open_bundle
from nexus_core.bundle.shards import split
from nexus_core.errors import ModelError

LIMIT = 9_000


@pytest.fixture(scope="module")
def sharded_once(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make(tmp_path_factory.mktemp("sharded") / "bundle", shard_limit=LIMIT)


@pytest.fixture
def sharded(sharded_once: Path, tmp_path: Path) -> Path:
    import shutil

    return Path(shutil.copytree(sharded_once, tmp_path / "sharded"))


def test_the_layout_is_that_of_the_field(sharded: Path) -> None:
    index = json.loads((sharded / "backbone/backbone.safetensors.index.json").read_bytes())
    shards = sorted(path.name for path in (sharded / "backbone").glob("*.safetensors"))
    count = len(shards)
    assert count > 3 and shards == [f"backbone-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]
    found = {name: path.name for path in (sharded / "backbone").glob("*.safetensors") for name in load_file(path)}
    assert index["weight_map"] == found
    total = sum(t.nbytes for path in (sharded / "backbone").glob("*.safetensors") for t in load_file(path).values())
    assert index["metadata"]["total_size"] == total
    large = [path for path in (sharded / "backbone").glob("*.safetensors") if path.stat().st_size > LIMIT + 1000]
    assert all(len(load_file(path)) == 1 for path in large), "only a tensor that is larger than the limit"
    assert (sharded / "adapters/tools_adapter.safetensors").is_file(), "what is below the limit is whole"


def test_it_is_the_same_student(sharded: Path, bundle: Path) -> None:
    whole, parts = open_bundle(bundle).student().model.state_dict(), open_bundle(sharded).student().model.state_dict()
    assert set(whole) == set(parts)
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_shares_are_at_most_the_limit_unless_one_tensor_is_larger() -> None:
    tensors = {name: torch.zeros(size) for name, size in [("a", 3), ("b", 3), ("c", 10), ("d", 1), ("e", 2)]}
    assert [sorted(share) for share in split(tensors, 24)] == [["a", "b"], ["c"], ["d", "e"]]
    assert [sorted(share) for share in split(tensors, 1000)] == [["a", "b", "c", "d", "e"]]


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted((sharded / "backbone").glob("*-00002-of-*"))[0]
    shard.unlink()
    with pytest.raises(ModelError, match=f"{shard.name} is missing"):
        open_bundle(sharded)


@pytest.mark.parametrize("lie", ["elsewhere", "unknown tensor", "other shard", "no map", "no json"])
def test_an_index_that_lies_is_named(tiny: ModuleType, sharded: Path, lie: str) -> None:
    """With a hash that is right: not a changed file, but one that was never sound."""
    path = sharded / "backbone/backbone.safetensors.index.json"
    index = json.loads(path.read_bytes())
    names = sorted(index["weight_map"])
    if lie == "elsewhere":
        index["weight_map"][names[0]] = "../../etc/passwd"
    elif lie == "unknown tensor":
        index["weight_map"]["stranger"] = index["weight_map"][names[0]]
    elif lie == "other shard":
        first, last = index["weight_map"][names[0]], index["weight_map"][names[-1]]
        index["weight_map"] |= {names[0]: last, names[-1]: first}
    elif lie == "no map":
        index["weight_map"] = [1]
    path.write_text("[" * 100_000 if lie == "no json" else json.dumps(index))
    tiny.relist(sharded)
    assert read_manifest(sharded)
    with pytest.raises(ModelError, match=r"backbone"):
        open_bundle(sharded)
