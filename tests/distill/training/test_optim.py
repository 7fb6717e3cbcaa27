"""Who is trained, at which rate, with which optimizer."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from bitsandbytes.optim import AdamW8bit

from nexus_core.distill.optim import bits, build_optimizer, gradient_norm, rate_share, select_trained, set_rate
from nexus_core.distill.settings import PhaseSettings, read_teaching
from nexus_core.errors import UsageError

TINY = read_teaching("tiny")
PHASE = PhaseSettings("adapters", False, 100, 1e-3, 0.0, 0, 10, 1.0)
JOINT = replace(PHASE, backbone_rate=1e-5, backbone_blocks=1)


def test_phase_one_thaws_the_adapter_alone(tiny):
    student = tiny.new_student()
    trained = select_trained(student, ["letters"], PHASE)
    assert trained.adapter
    assert not trained.backbone
    thawed = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert thawed == set(trained.adapter) == {n for n, _ in student.named_parameters() if "adapters.letters." in n}


def test_the_joint_phase_thaws_the_last_blocks(tiny):
    trained = select_trained(tiny.new_student(), ["letters"], JOINT)
    assert trained.backbone
    assert all(name.startswith("model.layers.0.") for name in trained.backbone)


def test_an_adapter_that_is_not_there(tiny):
    with pytest.raises(UsageError, match='no adapter "lettres"'):
        select_trained(tiny.new_student(), ["lettres"], PHASE)


def test_norms_biases_and_gates_do_not_decay_and_each_group_has_its_rate(tiny):
    student = tiny.new_student()
    optimizer = build_optimizer(select_trained(student, ["letters"], JOINT), JOINT, TINY.optimizer)
    named = {id(parameter): name for name, parameter in student.named_parameters()}
    for group in optimizer.param_groups:
        names = [named[id(parameter)] for parameter in group["params"]]
        assert all(name.startswith("model.") for name in names) == group["backbone"]
        assert group["rate"] == (1e-5 if group["backbone"] else 1e-3)
        matrices = [parameter.ndim >= 2 for parameter in group["params"]]
        assert all(matrices) if group["weight_decay"] else not any(matrices)
    assert len(optimizer.param_groups) == 4
    gates = [group for group in optimizer.param_groups if any("gate" in named[id(p)] for p in group["params"])]
    assert [group["weight_decay"] for group in gates if not group["backbone"]] == [0.0]


def test_the_rate_warms_up_and_falls_as_a_function_of_the_step():
    shares = [rate_share(step, PHASE, 0.05) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == 1.0
    assert shares[:10] == sorted(shares[:10])
    assert shares[10:] == sorted(shares[10:], reverse=True)
    assert shares[55] == pytest.approx(0.05 + 0.95 / 2)
    assert shares[100] == pytest.approx(0.05)
    assert rate_share(1000, PHASE, 0.05) == pytest.approx(0.05)
    assert rate_share(0, replace(PHASE, warm_up=0), 0.05) == 1.0


def test_a_repair_moves_adapters_only(tiny):
    student = tiny.new_student()
    trained = select_trained(student, ["letters"], JOINT)
    optimizer = build_optimizer(trained, JOINT, TINY.optimizer)
    before = {name: p.detach().clone() for name, p in trained.all.items()}
    set_rate(optimizer, 1.0, adapters_only=True)
    for parameter in trained.all.values():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert all(torch.equal(p, before[name]) for name, p in trained.backbone.items())
    assert not any(torch.equal(p, before[name]) for name, p in trained.adapter.items())
    set_rate(optimizer, 0.5)
    assert sorted({group["lr"] for group in optimizer.param_groups}) == [0.5e-5, 0.5e-3]


def test_eight_bits_from_some_millions_on_or_when_named(tiny):
    auto = replace(TINY.optimizer, kind="auto", eight_bit_from=1000)
    assert (bits(auto, 999), bits(auto, 1000)) == (32, 8)
    assert bits(replace(auto, kind="adamw"), 10**9) == 32
    assert bits(replace(auto, kind="adamw8bit"), 1) == 8
    trained = select_trained(tiny.new_student(), ["letters"], PHASE)
    assert isinstance(build_optimizer(trained, PHASE, replace(auto, kind="adamw8bit")), AdamW8bit)
    assert isinstance(build_optimizer(trained, PHASE, TINY.optimizer), torch.optim.AdamW)


def test_the_norm_is_of_the_gradient_before_clipping():
    parameter = torch.nn.Parameter(torch.zeros(4))
    parameter.grad = torch.full((4,), 3.0)
    assert float(gradient_norm([parameter], 1.0)) == pytest.approx(6.0)
    assert float(parameter.grad.norm()) == pytest.approx(1.0, rel=1e-4)
    parameter.grad = torch.tensor([1.0, float("nan"), 0.0, 0.0])
    assert not torch.isfinite(gradient_norm([parameter], 1.0))
