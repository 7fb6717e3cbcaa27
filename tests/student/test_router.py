"""The router as a module: closed before it is trained, deterministic, strict about its file, blind to what is isolated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from nexus_core.errors import DataError
from nexus_core.student.arch import AdapterArch, RouterArch, StudentArch
from nexus_core.student.router import SparseIntentRouter, load_router, router_of, save_router
from nexus_core.student.router_features import WINDOW, features

ARCH = RouterArch(("sums", "letters"), buckets=256, width=4, most=2)
PROMPTS = ["What is 3 + 4?", "write a letter to my aunt", "", "Привет, мир", "\ud800 alone", "x" * 20_000]


def opened(arch: RouterArch = ARCH, seed: int = 1) -> SparseIntentRouter:
    """A router that proposes every adapter: as if someone had edited its floors."""
    router = SparseIntentRouter(arch, seed).eval()
    router.logit_floor.fill_(-torch.inf)
    router.density_floor.fill_(-torch.inf)
    return router


def student(*adapters: AdapterArch, classes: tuple[str, ...]) -> StudentArch:
    return StudentArch(1, "tiny", 42, {}, "random", adapters, (), RouterArch(classes, 64, 4, 1), ())


def adapter(capability: str, isolated: bool = False) -> AdapterArch:
    return AdapterArch(capability, "text", "teacher", (), 0, (), isolated)


def test_an_untrained_router_leaves_every_prompt_to_the_backbone() -> None:
    assert [route.adapters for route in SparseIntentRouter(ARCH).routes(PROMPTS)] == [()] * len(PROMPTS)


def test_probabilities_come_with_every_decision_and_the_best_is_first() -> None:
    for route in opened().routes(PROMPTS):
        assert set(route.probabilities) == set(ARCH.classes)
        assert list(route.adapters) == sorted(ARCH.classes, key=lambda name: -route.probabilities[name])


def test_no_more_adapters_than_planned() -> None:
    router = opened(replace(ARCH, most=1))
    assert {len(route.adapters) for route in router.routes(PROMPTS)} == {1}
    assert (router.gates(router.features(PROMPTS)) > 0).sum(dim=1).tolist() == [1] * len(PROMPTS)


def test_a_capability_asked_for_by_name_wins() -> None:
    assert SparseIntentRouter(ARCH).route("What is 3 + 4?", "letters").adapters == ("letters",)
    assert opened().route("What is 3 + 4?", "uncensored").adapters == ("uncensored",)


def test_the_same_seed_gives_the_same_router_and_another_does_not() -> None:
    one, same, other = SparseIntentRouter(ARCH, 1), SparseIntentRouter(ARCH, 1), SparseIntentRouter(ARCH, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), same.parameters(), strict=True))
    assert not torch.equal(one.embedding.weight, other.embedding.weight)


def test_one_prompt_is_judged_alike_alone_and_among_others() -> None:
    router = opened()
    together = router(router.features(PROMPTS))
    for i, prompt in enumerate(PROMPTS):
        alone = router(router.features([prompt]))
        torch.testing.assert_close(alone.logits[0], together.logits[i])
        torch.testing.assert_close(alone.density[0], together.density[i])


def test_a_single_adapter_has_a_gradient() -> None:
    router = SparseIntentRouter(RouterArch(("sums",), 64, 4, 1))
    gates = router.gates(router.features(["What is 3 + 4?"]))
    torch.autograd.backward(gates.sum())
    for name, parameter in router.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_an_empty_prompt_has_no_density_whatever_the_table_says() -> None:
    router = opened()
    router.density_floor.fill_(-1e9)
    assert [bool(route.adapters) for route in router.routes(["", " \n\t", "a"])] == [False, False, True]


def test_a_damaged_router_abstains() -> None:
    router = opened()
    torch.nn.init.constant_(router.heads.weight, torch.nan)
    assert all(route.adapters == () for route in router.routes(PROMPTS))


def test_nothing_to_route() -> None:
    assert opened().routes([]) == [] and len(features([], 64)) == 0


# --- features ----------------------------------------------------------------------------------------------------


def test_numbers_and_capitals_are_not_told_apart_by_the_hashes() -> None:
    one, other = features(["What is 3 + 4?", "what IS 9 + 1?"], 4096).ids, features(["What is 3 + 4?"] * 2, 4096).ids
    assert one.tolist() == other.tolist()


def test_weights_of_a_prompt_sum_to_one_and_buckets_are_in_range() -> None:
    packed = features(PROMPTS, 128)
    for i, prompt in enumerate(PROMPTS):
        part = slice(packed.starts[i], packed.starts[i + 1])
        assert packed.weights[part].sum() == pytest.approx(1.0 if prompt else 0.0, abs=1e-5)
        assert ((packed.ids[part] >= 0) & (packed.ids[part] < 128)).all()


def test_the_middle_of_a_long_prompt_is_not_read_but_its_ends_are() -> None:
    ends = "a" * (WINDOW // 2), "b" * (WINDOW // 2)
    plain, filled = (
        features([ends[0] + "z" * 9000 + ends[1], ends[0] + "?" * 9000 + ends[1]], 4096),
        features(["ab"], 64),
    )
    rows = [plain.ids[plain.starts[i] : plain.starts[i + 1]].tolist() for i in range(2)]
    assert rows[0] == rows[1] and len(filled) == 1
    changed = features([ends[0] + "z" * 9000 + ends[1][:-9] + "questions"], 4096)
    assert changed.ids.tolist() != rows[0]


def test_taking_rows_is_the_same_as_reading_those_prompts() -> None:
    taken, read = features(PROMPTS, 256).take([3, 0, 2]), features([PROMPTS[3], PROMPTS[0], ""], 256)
    assert taken.ids.tolist() == read.ids.tolist() and taken.starts.tolist() == read.starts.tolist()
    assert taken.weights.tolist() == read.weights.tolist() and (taken.shallow == read.shallow).all()


# --- leakage probes: nobody reaches an isolated adapter through the router ------------------------------------------


@pytest.mark.parametrize("name", ["uncensored", "Uncensored", "text-uncensored"])
def test_an_uncensored_class_cannot_be_built(name: str) -> None:
    with pytest.raises(DataError, match="cannot be a class"):
        SparseIntentRouter(replace(ARCH, classes=("sums", name)))


def test_an_isolated_adapter_cannot_be_a_class_by_any_name() -> None:
    adapters = adapter("sums"), adapter("roleplay", isolated=True)
    with pytest.raises(DataError, match='"roleplay" is isolated'):
        router_of(student(*adapters, classes=("sums", "roleplay")))
    assert router_of(student(*adapters, classes=("sums",))).classes == ("sums",)


def test_a_class_needs_an_adapter() -> None:
    with pytest.raises(DataError, match='no adapter for the class "letters"'):
        router_of(student(adapter("sums"), classes=("sums", "letters")))


@pytest.mark.parametrize("value", [-1e30, -1.0, 0.0, 1.0, 1e30, torch.inf, -torch.inf, torch.nan])
def test_no_edit_of_the_weights_proposes_what_is_not_a_class(value: float) -> None:
    router = opened()
    for seed in range(3):
        torch.manual_seed(seed)
        for tensor in router.state_dict().values():
            tensor.copy_(torch.where(torch.rand_like(tensor) < 0.5, value, tensor))
        proposed = {
            name for route in router.routes([*PROMPTS, "use the uncensored adapter"]) for name in route.adapters
        }
        assert proposed <= set(ARCH.classes)


def test_a_file_with_one_more_class_is_refused(tmp_path: Path) -> None:
    save_router(opened(replace(ARCH, classes=("sums", "letters", "roleplay"))), tmp_path / "router.safetensors")
    with pytest.raises(DataError, match="another router"):
        load_router(tmp_path / "router.safetensors", ARCH)
    tensors = load_file(tmp_path / "router.safetensors")
    save_router(opened(), tmp_path / "honest.safetensors")
    raw = (tmp_path / "honest.safetensors").read_bytes()
    plan = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    (tmp_path / "router.safetensors").write_bytes(save(tensors, plan))
    with pytest.raises(DataError, match="another shape"):
        load_router(tmp_path / "router.safetensors", ARCH)


# --- files ---------------------------------------------------------------------------------------------------------


def test_saved_and_loaded_it_is_the_same(tmp_path: Path) -> None:
    router, path = opened(), tmp_path / "router.safetensors"
    save_router(router, path)
    first = path.read_bytes()
    save_router(router, path)
    assert path.read_bytes() == first
    assert load_router(path, ARCH).routes(PROMPTS) == router.routes(PROMPTS)


@pytest.mark.parametrize(
    "other",
    [
        replace(ARCH, classes=("letters", "sums")),
        replace(ARCH, buckets=128),
        replace(ARCH, width=8),
        replace(ARCH, most=1),
    ],
)
def test_a_file_of_another_plan_is_refused(tmp_path: Path, other: RouterArch) -> None:
    save_router(opened(other), tmp_path / "router.safetensors")
    with pytest.raises(DataError):
        load_router(tmp_path / "router.safetensors", ARCH)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff" * 64, b"\x00" * 3_000_000], ids=["empty", "short", "noise", "big"]
)
def test_a_file_that_is_no_router_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "router.safetensors"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"router\.safetensors"):
        load_router(path, ARCH)


def test_missing_tensors_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "router.safetensors"
    with pytest.raises(DataError, match="not there"):
        load_router(path, ARCH)
    save_router(opened(), path)
    raw = path.read_bytes()
    plan = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    tensors = load_file(path)
    del tensors["log_density"]
    save_file(tensors, path, plan)
    with pytest.raises(DataError, match="'log_density' is missing"):
        load_router(path, ARCH)


def test_a_plan_that_is_no_router_is_refused() -> None:
    for arch in (replace(ARCH, classes=()), replace(ARCH, classes=("sums", "sums")), replace(ARCH, most=0)):
        with pytest.raises(DataError):
            SparseIntentRouter(arch)
