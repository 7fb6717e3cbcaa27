"""Checkpoints: everything comes back, a damaged one is named and the one before is used, and the folder stays whole."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import pytest
import torch
from bitsandbytes.optim import AdamW8bit

from nexus_core.atomic import Unwritable
from nexus_core.distill.checkpoints import (
    Checkpoint,
    Checkpoints,
    Meta,
    load_optimizer,
    load_rng,
    load_weights,
    optimizer_tensors,
    read_checkpoint,
    rng_tensors,
)
from nexus_core.errors import DataError

IDENTITY = "a" * 64


def moment(step, value=0.0, phase=0, identity=IDENTITY):
    weights = {"w": torch.full((3,), value)}
    return Checkpoint(Meta(identity, step, step, phase, {"n": step}, {}), weights, {}, rng_tensors())


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def steps(parameters, optimizer, n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(n):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()


@pytest.mark.parametrize("kind", [torch.optim.AdamW, AdamW8bit], ids=["adamw", "adamw8bit"])
def test_an_optimizer_goes_on_bit_equal_from_its_checkpoint(tmp_path, kind):
    """A matrix that is stored in 8 bits, and a vector that is too small for it."""

    def fresh():
        torch.manual_seed(1)
        parameters = [torch.nn.Parameter(torch.randn(64, 96)), torch.nn.Parameter(torch.randn(7))]
        return parameters, kind(parameters, lr=1e-2)

    parameters, optimizer = fresh()
    steps(parameters, optimizer, 3)
    weights = {str(i): parameter for i, parameter in enumerate(parameters)}
    store = Checkpoints(tmp_path, IDENTITY)
    store.save(Checkpoint(Meta(IDENTITY, 3, 3, 0), weights, optimizer_tensors(optimizer), rng_tensors()), best=True)
    steps(parameters, optimizer, 3, seed=1)

    others, resumed = fresh()
    steps(others, resumed, 1, seed=5)  # what it held before is to be gone
    found = store.latest()
    load_weights({str(i): parameter for i, parameter in enumerate(others)}, found.weights)
    load_optimizer(resumed, found.optimizer)
    steps(others, resumed, 3, seed=1)
    assert all(torch.equal(one, two) for one, two in zip(parameters, others, strict=True))
    states = optimizer_tensors(optimizer), optimizer_tensors(resumed)
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    if kind is AdamW8bit:
        assert any(tensor.dtype == torch.uint8 for tensor in states[0].values())


def test_the_generators_come_back(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    store.save(moment(0), best=True)
    first = torch.rand(3)
    load_rng(store.latest().rng)
    assert torch.equal(torch.rand(3), first)


def test_latest_and_best_and_one_older_of_each(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    assert store.latest() is None
    for step, best in ((0, True), (10, True), (20, True), (30, False), (40, False), (50, False)):
        store.save(moment(step, float(step)), best)
    assert names(tmp_path) == ["00000010", "00000020", "00000040", "00000050"]
    assert store.latest().meta.step == 50
    assert float(store.best(0).weights["w"][0]) == 20.0
    assert store.damaged == []


DAMAGE = {
    "a byte of the weights": lambda folder: flip(folder / "weights.safetensors"),
    "half of the weights": lambda folder: cut(folder / "weights.safetensors"),
    "no optimizer": lambda folder: (folder / "optimizer.safetensors").unlink(),
    "a byte of the generators": lambda folder: flip(folder / "rng.safetensors"),
    "half of the description": lambda folder: cut(folder / "checkpoint.json"),
    "an empty description": lambda folder: (folder / "checkpoint.json").write_bytes(b""),
    "a description that is a list": lambda folder: (folder / "checkpoint.json").write_text("[]"),
    "no hash": lambda folder: edit(folder / "checkpoint.json", "sha256", {}),
    "hashes that are a number": lambda folder: edit(folder / "checkpoint.json", "sha256", 3),
    "another step": lambda folder: edit(folder / "checkpoint.json", "meta", {"step": 21}),
    "a number that is not JSON": lambda folder: edit(folder / "checkpoint.json", "meta", {"step": float("nan")}),
}


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def edit(path, key, value):
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(tmp_path, how):
    store = Checkpoints(tmp_path, IDENTITY)
    for step in (0, 10, 20):
        store.save(moment(step, float(step)), best=True)
    DAMAGE[how](tmp_path / "00000020")
    with pytest.raises(DataError, match="00000020"):
        read_checkpoint(tmp_path / "00000020", IDENTITY)
    assert store.best(0).meta.step == 10
    assert store.latest().meta.step == 10
    assert len(store.damaged) == 2
    assert all("00000020" in reason and "damaged" in reason for reason in store.damaged)
    assert names(tmp_path) == ["00000000", "00000010"] or names(tmp_path) == ["00000010"]


def test_all_damaged_is_an_error_that_names_each(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    for step in (0, 10):
        store.save(moment(step), best=True)
    for name in ("00000000", "00000010"):
        flip(tmp_path / name / "weights.safetensors")
    with pytest.raises(DataError, match=r"00000010.*00000000") as caught:
        store.latest()
    assert "delete that folder" in caught.value.hint


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    Checkpoints(tmp_path, IDENTITY).save(moment(0), best=True)
    with pytest.raises(DataError, match="other settings or other data"):
        Checkpoints(tmp_path, "b" * 64).latest()


def test_a_damaged_index_is_an_error(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    store.save(moment(0), best=True)
    for content in ("{", "[]", '{"latest": ["../x"], "best": []}'):
        (tmp_path / "index.json").write_text(content)
        with pytest.raises(DataError, match=r"index\.json"):
            store.latest()


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes_away(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    store.save(moment(0), best=True)
    (tmp_path / ".00000010.tmp").mkdir()
    (tmp_path / ".00000010.tmp" / "weights.safetensors").write_bytes(b"half")
    (tmp_path / "00000010").mkdir()  # renamed, but the index was not yet written
    assert store.latest().meta.step == 0
    assert names(tmp_path) == ["00000000"]
    (tmp_path / "00000010").mkdir()
    store.save(moment(10, 1.0), best=False)
    assert store.latest().meta.step == 10


def test_going_on_forgets_what_came_later(tmp_path):
    """The best of a later moment, which the resumed run has not reached yet, must not be what it goes back to."""
    store = Checkpoints(tmp_path, IDENTITY)
    for step, best in ((0, True), (10, False), (20, True)):
        store.save(moment(step), best)
    flip(tmp_path / "00000020" / "weights.safetensors")
    assert store.latest().meta.step == 10
    assert store.best(0).meta.step == 0


def test_weights_of_another_phase_are_no_way_back(tmp_path):
    store = Checkpoints(tmp_path, IDENTITY)
    store.save(moment(0), best=True)
    store.save(moment(10, phase=1), best=True)
    flip(tmp_path / "00000010" / "weights.safetensors")
    with pytest.raises(DataError, match="can be gone back to"):
        store.best(1)
    assert store.best(0).meta.step == 0


def test_weights_must_be_the_very_ones():
    parameters = {"a": torch.nn.Parameter(torch.zeros(2)), "b": torch.nn.Parameter(torch.zeros(2))}
    with pytest.raises(DataError, match="differ in b"):
        load_weights(parameters, {"a": torch.ones(2)})
    with pytest.raises(DataError, match=r"b is \(3,\)"):
        load_weights(parameters, {"a": torch.ones(2), "b": torch.ones(3)})


def test_the_same_moment_gives_the_same_bytes(tmp_path):
    torch.manual_seed(0)
    for name in ("one", "two"):
        Checkpoints(tmp_path / name, IDENTITY).save(replace(moment(7), rng={"cpu": torch.zeros(8)}), best=True)
    for file in ("weights.safetensors", "optimizer.safetensors", "rng.safetensors", "checkpoint.json"):
        one, two = (tmp_path / name / "00000007" / file for name in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_a_full_disk_is_said_and_what_was_there_can_be_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "kept", IDENTITY)
    checkpoints.save(moment(1, 1.0), best=True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (400, before[1]))  # the system refuses what goes beyond
    try:
        with pytest.raises(Unwritable, match=f"{tmp_path / 'kept'} cannot be written: File too large"):
            checkpoints.save(moment(2, 2.0), best=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert Checkpoints(tmp_path / "kept", IDENTITY).latest().meta.step == 1
    checkpoints.save(moment(2, 2.0), best=True)
    assert names(tmp_path / "kept") == ["00000001", "00000002"]
