"""Choosing an adapter: who answers, who does not, and that nobody touches anybody."""

from __future__ import annotations

import copy

import pytest
import torch

from nexus_core.errors import DataError, UsageError
from nexus_core.student import NexusConfig, NexusForCausalLM
from nexus_core.student.arch import AdapterArch, Site

CAPABILITIES = ["reasoning", "code"]
SHAPE = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")


def say(student, ids, capability=None, **more):
    with torch.no_grad(), student.using(capability, **more):
        return student(ids).logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("training", [False, True])
def test_an_untrained_adapter_changes_no_bit_when_chosen(make, ids, dtype, training):
    student = make(dtype=dtype).train(training)
    plain = student(ids).logits
    for capability in CAPABILITIES:
        student.choose(capability)
        assert torch.equal(student(ids).logits, plain), "with a gradient"
        with torch.no_grad():
            assert torch.equal(student(ids).logits, plain), "without"


def test_a_trained_one_changes_the_output_only_when_chosen(make, ids):
    untrained, student = make(), make(trained=True)
    plain = say(untrained, ids)
    assert torch.equal(say(student, ids), plain)
    said = {capability: say(student, ids, capability) for capability in CAPABILITIES}
    assert not torch.equal(said["reasoning"], plain)
    assert not torch.equal(said["code"], plain)
    assert not torch.equal(said["reasoning"], said["code"])
    assert torch.equal(say(student, ids), plain), "and nothing stays behind"


def test_training_one_adapter_moves_no_bit_of_another_nor_of_the_backbone(make, ids):
    student = make(trained=True).requires_grad_(False)
    before = {name: t.clone() for name, t in student.state_dict().items()}
    said = {c: say(student, ids, c) for c in (None, "code")}
    student.adapters["reasoning"].requires_grad_(True)
    optimizer = torch.optim.AdamW(student.adapters["reasoning"].parameters(), 0.01)
    student.train().choose("reasoning")
    for _ in range(3):
        student(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    student.eval().choose(None)
    changed = {name for name, t in student.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {name for name in before if name.startswith("adapters.reasoning.")}
    assert all(torch.equal(say(student, ids, c), said[c]) for c in said)


def test_every_parameter_of_the_chosen_adapter_learns(make, ids):
    student = make(trained=True).train()
    student.choose("reasoning")
    student(ids, labels=ids).loss.backward()
    dead = [n for n, p in student.adapters["reasoning"].named_parameters() if p.grad is None or not p.grad.any()]
    assert dead == []
    assert all(p.grad is None for p in student.adapters["code"].parameters())


@pytest.mark.parametrize("order", [["reasoning", "code"], ["code", "reasoning"]])
def test_adding_and_removing_leave_the_others_alone(make, ids, build, order):
    student = make(trained=True)
    said = {c: say(student, ids, c) for c in (None, *order)}
    new = AdapterArch("tools", "text", "t", (Site(0, 3, "x"),), 2, ("k_proj",))
    student.add_adapter(new, build)
    assert all(torch.equal(say(student, ids, c), said[c]) for c in said)
    assert torch.equal(say(student, ids, "tools"), said[None])
    student.choose(order[0])
    student.remove_adapter(order[0])
    assert student.chosen is None
    assert torch.equal(student(ids).logits, said[None])
    assert torch.equal(say(student, ids, order[1]), said[order[1]])
    assert list(student.config.adapters) == [c for c in ("reasoning", "code", "secret", "tools") if c != order[0]]
    assert not any(name.startswith(f"adapters.{order[0]}.") for name in student.state_dict())


def test_using_brings_back_what_was_chosen(make):
    student = make()
    student.choose("code")
    with student.using("reasoning") as same:
        assert same is student
        assert student.chosen == "reasoning"
        with student.using(None):
            assert student.chosen is None
        assert student.chosen == "reasoning"
    assert student.chosen == "code"
    with pytest.raises(ZeroDivisionError), student.using("reasoning"):
        raise ZeroDivisionError
    assert student.chosen == "code"
    with student.using("reasoning"):
        student.remove_adapter("code")
    assert student.chosen is None, "what was chosen before is no more"


def test_an_unknown_name_is_an_error_with_the_nearest_one(make):
    student = make()
    with pytest.raises(UsageError, match='no adapter for "reasonin"; did you mean "reasoning"') as caught:
        student.choose("reasonin")
    assert "reasoning, code" in caught.value.hint
    for call in (student.remove_adapter, lambda name: student.using(name).__enter__(), student.peft_state):
        with pytest.raises(UsageError, match='no adapter for "xyz"'):
            call("xyz")
    assert student.chosen is None


def test_an_isolated_adapter_answers_only_when_that_is_said_twice(make, ids):
    student = make(trained=True)
    for call in (student.choose, lambda name: student.using(name).__enter__()):
        with pytest.raises(UsageError, match='"secret" is isolated') as caught:
            call("secret")
        assert "allow_isolated" in caught.value.hint
        assert student.chosen is None
    with student.using("secret", allow_isolated=True):
        assert student.chosen == "secret"
        with student.using("code"):
            pass
        assert student.chosen == "secret", "an inner choice gives back what was allowed outside"
    assert not torch.equal(say(student, ids, "secret", allow_isolated=True), say(student, ids))


def test_with_the_isolated_adapter_there_every_other_output_is_as_without_it(make, ids):
    student, without = make(trained=True), make(trained=True)
    without.remove_adapter("secret")
    for capability in (None, *CAPABILITIES):
        assert torch.equal(say(student, ids, capability), say(without, ids, capability))


def test_weights_depend_on_the_seed_and_their_place_alone(make, build):
    first = make().adapters["code"].state_dict()
    student = make()
    student.remove_adapter("code")
    student.remove_adapter("reasoning")
    torch.manual_seed(99)
    again = student.add_adapter(make().adapters["code"].arch, build, seed=42).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    student.remove_adapter("code")
    other = student.add_adapter(make().adapters["code"].arch, build, seed=43).state_dict()
    assert not torch.equal(first["sites.1.down.weight"], other["sites.1.down.weight"])
    deltas = [name for name in first if name.endswith(".a")]
    assert len({first[name].sum().item() for name in deltas}) == len(deltas), "no two deltas start alike"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sites": (Site(2, 4, "x"),)}, "no block 2"),
        ({"delta_targets": ("q_prj",)}, "no projection is called 'q_prj'"),
        ({"capability": "code"}, 'already has an adapter called "code"'),
        ({"capability": "long.context"}, '"long.context" cannot be the name'),
        ({"capability": "values"}, '"values" cannot be the name'),
    ],
)
def test_what_cannot_be_built_is_refused_and_leaves_no_trace(make, build, change, message):
    student = make()
    before = list(student.state_dict()), dict(student.config.adapters)
    planned = {"capability": "new", "tower": "text", "teacher": "t", "sites": (), "delta_rank": 2, "delta_targets": ()}
    with pytest.raises((DataError, UsageError), match=message):
        student.add_adapter(AdapterArch(**{**planned, **change}), build)
    assert (list(student.state_dict()), dict(student.config.adapters)) == before


def test_a_copy_chooses_for_itself(make, ids):
    student = make(trained=True)
    student.choose("code")
    said = say(student, ids, "code")
    twin = copy.deepcopy(student)
    with torch.no_grad():
        for parameter in twin.adapters["code"].parameters():
            parameter.zero_()
    assert torch.equal(say(twin, ids, "code"), say(twin, ids))
    assert torch.equal(say(student, ids, "code"), said)
    twin.remove_adapter("code")
    assert "code" in student.config.adapters


def test_recording_gives_the_coordinates_of_the_chosen_bottlenecks(make, ids):
    student = make(trained=True)
    student.choose("reasoning")
    with student.recording() as seen:
        logits = student(ids).logits
        assert {block: tuple(z.shape) for block, z in seen.items()} == {0: (3, 11, 4), 1: (3, 11, 5)}
        assert all(z.requires_grad for z in seen.values()), "anchoring teaches through them"
        first = seen[0].detach()
        site = student.adapters["reasoning"].sites["0"]
        hidden = {}
        hook = site.norm.register_forward_hook(lambda module, args, out: hidden.update(h=args[0]))
        student(ids)
        hook.remove()
        torch.testing.assert_close(first, site.coordinates(hidden["h"]))
    seen.clear()
    assert torch.equal(student(ids).logits, logits), "recording changes nothing"
    assert seen == {}, "and ends with its block"
    student.choose(None)
    with student.recording() as seen:
        student(ids)
    assert seen == {}


def test_adapters_are_built_through_the_towers_hook(make, ids):
    """The text tower's plugin, found as any plugin is."""
    student = make()
    adapter = student.add_adapter(AdapterArch("tools", "text", "t", (Site(1, 3, "x"),), 0, ()))
    assert adapter.sites["1"].coordinates(torch.zeros(1, 1, 32)).shape == (1, 1, 3)
    assert torch.equal(say(student, ids, "tools"), say(student, ids))


def test_what_one_built_a_config_from_stays_as_it_was(make, build):
    student = make()
    given = dict(student.config.adapters)
    config = NexusConfig(**{name: getattr(student.config, name) for name in SHAPE}, adapters=given)
    other = NexusForCausalLM(config, build)
    other.add_adapter(AdapterArch("tools", "text", "t", (Site(1, 3, "x"),), 0, ()), build)
    assert list(given) == list(student.config.adapters) == ["reasoning", "code", "secret"]
    assert list(other.config.adapters) == ["reasoning", "code", "secret", "tools"]
