"""What of a bundle is needed when: at load, or when it is asked for. Routing, and the isolated adapter."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from nexus import NexusError, NexusModel, UsageError
from nexus_core.discovery import discover
from nexus_core.types import Kind

DIGITS = "12345 + 67890"


def files(bundle: Path) -> list[str]:
    return [path.relative_to(bundle).as_posix() for path in sorted(bundle.rglob("*")) if path.is_file()]


def flip(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def test_the_facts_of_the_bundle(random_model):
    facts = random_model.capabilities
    assert list(facts) == ["reasoning", "tools", "uncensored"]
    assert facts["tools"].aliases == ("agent",)
    assert facts["uncensored"].isolated
    assert facts["reasoning"].result.student_score == 0.9
    with pytest.raises(TypeError):
        facts["reasoning"] = facts["tools"]
    assert repr(random_model) == "NexusModel(nexus_bundle_v1: reasoning, tools, uncensored)"


def test_every_changed_file_is_named_at_load(copied):
    for name in files(copied):
        before = (copied / name).read_bytes()
        flip(copied / name)
        with pytest.raises(NexusError, match=Path(name).name):
            NexusModel.load(copied)
        (copied / name).write_bytes(before)
    NexusModel.load(copied)


def test_unless_that_is_switched_off(copied):
    flip(copied / "README.md")
    with pytest.raises(NexusError, match=r"README\.md"):
        NexusModel.load(copied)
    assert NexusModel.load(copied, verify=False).generate("a", "reasoning")


@pytest.mark.parametrize(
    "name", ["manifest.json", "backbone/config.json", "backbone/backbone.safetensors", "tokenizer/tokenizer.json"]
)
def test_what_nothing_works_without_is_missed_at_load(copied, name):
    (copied / name).unlink()
    with pytest.raises(NexusError, match=Path(name).name):
        NexusModel.load(copied)


def test_a_missing_adapter_is_missed_when_it_is_asked_for(copied, random_model):
    (copied / "adapters/tools_adapter.safetensors").unlink()
    model = NexusModel.load(copied)
    assert model.generate("a", "reasoning") == random_model.generate("a", "reasoning")
    assert model.route(DIGITS).capability == "reasoning"
    for _ in range(2):
        with pytest.raises(NexusError, match=r"tools_adapter\.safetensors.* is missing"):
            model.generate("a", "agent")
    assert model.generate("a", "reasoning") == random_model.generate("a", "reasoning")


def test_a_missing_router_is_missed_when_it_is_asked_for(copied, random_model):
    (copied / "router/router.safetensors").unlink()
    model = NexusModel.load(copied)
    assert model.generate("a", "reasoning") == random_model.generate("a", "reasoning")
    for ask in (model.route, model.generate, model.stream):
        with pytest.raises(NexusError, match=r"router\.safetensors.* is missing"):
            ask("a")


def test_a_bundle_without_a_router_asks_for_a_name(chain_model):
    with pytest.raises(UsageError, match="has no router") as caught:
        chain_model.generate("a")
    assert caught.value.hint == "name one of: reasoning, tools"


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(NexusError, match="no such directory"):
        NexusModel.load(tmp_path / "nothing")
    with pytest.raises(NexusError, match="is not a bundle"):
        NexusModel.load(str(tmp_path))


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta-physical", 3.5, None])
def test_a_device_that_is_not_there(random_bundle, device):
    with pytest.raises(UsageError, match="cannot be used"):
        NexusModel.load(random_bundle, device=device)


def test_a_tower_that_is_not_installed_is_missed_when_it_is_asked_for(random_bundle, monkeypatch):
    from nexus import towers

    monkeypatch.setattr(towers, "discover", lambda: [ref for ref in discover() if ref.kind is not Kind.TOWER])
    model = NexusModel.load(random_bundle)
    assert isinstance(model.generate("a", fallback="backbone"), str)
    with pytest.raises(NexusError, match='the tower "text" of this bundle is not installed') as caught:
        model.generate("a", "reasoning")
    assert caught.value.hint == "pip install nexus-tower-text"
    with pytest.raises(UsageError, match="no installed tower reads tool calls"):
        model.generate("a", fallback="backbone", tools=[{"name": "f"}])


# --- routing -----------------------------------------------------------------------------------------------------------


def test_the_router_chooses(random_model):
    route = random_model.route(DIGITS)
    assert route.capability == "reasoning"
    assert set(route.probabilities) == {"reasoning", "tools"}
    assert random_model.generate(DIGITS) == random_model.generate(DIGITS, "reasoning")
    assert "".join(random_model.stream(DIGITS)) == random_model.generate(DIGITS, "reasoning")


def test_what_the_router_does_not_recognise_is_an_error_or_the_backbones(random_model, prompts):
    assert random_model.route(prompts[1]).capability is None
    for ask in (random_model.generate, random_model.stream):
        with pytest.raises(UsageError, match="recognises no capability") as caught:
            ask(prompts[1])
        assert caught.value.hint.startswith("name one (reasoning, tools)")
    answer = random_model.generate(prompts[1], fallback="backbone")
    assert answer not in (random_model.generate(prompts[1], name) for name in ("reasoning", "tools"))
    assert "".join(random_model.stream(prompts[1], fallback="backbone")) == answer


def test_in_a_list_each_prompt_goes_its_own_way(random_model, prompts):
    asked = [prompts[0], DIGITS, prompts[1], DIGITS + "0"]
    expected = [random_model.generate(text, fallback="backbone") for text in asked]
    assert random_model.generate(asked, fallback="backbone") == expected
    with pytest.raises(UsageError, match="recognises no capability"):
        random_model.generate(asked)


# --- isolation ---------------------------------------------------------------------------------------------------------


def logits(model: NexusModel, capability: str | None) -> torch.Tensor:
    """What the model says of a fixed text with an adapter, after an answer with it."""
    if capability is not None:
        model.generate("a", capability, max_new_tokens=1)
    ids = torch.randint(3, 259, (2, 12), generator=torch.Generator().manual_seed(1))
    with model._session.lock, model._model.using(capability), torch.inference_mode():
        return model._model(ids).logits


def test_absent_present_and_enabled_change_no_bit_of_the_others(random_bundle, without_isolated, prompts):
    names = ("reasoning", "tools", None)
    absent, present, enabled = (NexusModel.load(p) for p in (without_isolated, random_bundle, random_bundle))
    said = enabled.generate(prompts, "uncensored", enable_uncensored=True)
    expected = {name: logits(absent, name) for name in names}
    for model in (present, enabled):
        for name in names:
            assert torch.equal(logits(model, name), expected[name])
            if name:
                assert model.generate(prompts, name) == absent.generate(prompts, name)
        assert model.generate(prompts, fallback="backbone") == absent.generate(prompts, fallback="backbone")
    assert said != enabled.generate(prompts, fallback="backbone"), "it does something when it is enabled"
    assert not torch.equal(expected["reasoning"], expected[None])
    assert enabled.generate(prompts, "uncensored", enable_uncensored=True) == said


def test_without_permission_it_is_not_so_much_as_built(random_bundle, prompts):
    model = NexusModel.load(random_bundle)
    for ask in (model.generate, model.stream):
        with pytest.raises(UsageError, match='"uncensored" is isolated') as caught:
            ask("a", "uncensored")
        assert "enable_uncensored=True" in caught.value.hint
    model.generate(prompts, "reasoning", enable_uncensored=True)
    assert "uncensored" not in model._model.adapters
    assert not any("uncensored" in name for name in model._bundle._held)
    model.generate("a", "uncensored", enable_uncensored=True)
    assert model._model.chosen is None, "it is not left chosen"


def test_its_file_may_be_gone_and_is_missed_when_it_is_asked_for(copied, random_model, prompts):
    (copied / "adapters/uncensored_adapter.safetensors").unlink()
    model = NexusModel.load(copied)
    assert model.generate(prompts, "reasoning") == random_model.generate(prompts, "reasoning")
    with pytest.raises(NexusError, match=r"uncensored_adapter\.safetensors.* is missing"):
        model.generate("a", "uncensored", enable_uncensored=True)


def test_its_file_is_looked_at_again_when_it_is_asked_for(copied):
    model = NexusModel.load(copied)
    flip(copied / "adapters/uncensored_adapter.safetensors")
    with pytest.raises(NexusError, match=r"uncensored_adapter\.safetensors was changed"):
        model.generate("a", "uncensored", enable_uncensored=True)


def test_the_router_can_never_propose_it(random_model, copied):
    assert "uncensored" not in random_model.route("uncensored").probabilities
    manifest = json.loads((copied / "manifest.json").read_text())
    assert "uncensored" not in manifest["student"]["router"]["classes"]
