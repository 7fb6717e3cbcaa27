"""The anchored bottleneck: identity until its gate opens, whitened scale, weights from the plan's seed alone."""

from __future__ import annotations

import pytest
import torch

from nexus_core.student.adapter import AnchoredBottleneck


@pytest.fixture
def hidden():
    return torch.randn(4, 7, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("rank", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_untrained_it_changes_no_bit(hidden, rank, dtype):
    adapter = AnchoredBottleneck(64, rank, seed=42).to(dtype)
    assert torch.equal(adapter(hidden.to(dtype)), hidden.to(dtype))


def test_the_formula(hidden):
    adapter = AnchoredBottleneck(64, 8, seed=42)
    adapter.gate.data.fill_(0.3)
    normal = (hidden - hidden.mean(-1, keepdim=True)) / (hidden.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    z = normal @ adapter.down.weight.T
    expected = hidden + torch.tanh(torch.tensor(0.3)) * ((z * torch.sigmoid(z)) @ adapter.up.weight.T)
    torch.testing.assert_close(adapter(hidden), expected)
    torch.testing.assert_close(adapter.coordinates(hidden), z)


def test_coordinates_have_about_unit_variance(hidden):
    """The scale of whitened PCA coordinates, so that anchoring starts near its target."""
    z = AnchoredBottleneck(64, 32, seed=42).coordinates(torch.randn(64, 64, 64) * 5 + 3)
    assert z.shape == (64, 64, 32)
    assert 0.8 < z.var().item() < 1.25


def test_weights_come_from_the_seed_alone():
    torch.manual_seed(1)
    first = AnchoredBottleneck(16, 4, seed=7).state_dict()
    torch.manual_seed(2)
    again = AnchoredBottleneck(16, 4, seed=7).state_dict()
    other = AnchoredBottleneck(16, 4, seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["down.weight"], other["down.weight"])
    assert not torch.equal(first["up.weight"], other["up.weight"])


def test_the_gate_learns_first_and_then_everything(hidden):
    """A closed gate passes no gradient below it, but receives one itself: training starts there."""
    adapter = AnchoredBottleneck(64, 8, seed=42)
    adapter(hidden).square().sum().backward()
    assert adapter.gate.grad.abs() > 0
    adapter.gate.data.fill_(0.1)
    adapter.zero_grad()
    adapter(hidden).square().sum().backward()
    assert [name for name, p in adapter.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


def test_building_one_draws_a_fixed_amount_from_the_global_random_state():
    """Two adapters of one shape leave the same state behind, whatever their seeds."""
    states = []
    for seed in (1, 2):
        torch.manual_seed(0)
        AnchoredBottleneck(16, 4, seed=seed)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_only_rank_and_width_decide_its_size():
    adapter = AnchoredBottleneck(64, 8, seed=42)
    assert sum(p.numel() for p in adapter.parameters()) == 2 * 64 + (64 * 8 + 8) + 8 * 64 + 1
