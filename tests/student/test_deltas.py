"""Low-rank deltas and folded bottlenecks: the formula, what is kept of them, and when it is computed anew."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.deltas import DeltaLinear, LowRankDelta
from nexus_core.student.kept import Kept


@pytest.fixture
def linear():
    return DeltaLinear(8, 6).eval()


@pytest.fixture
def delta():
    made = LowRankDelta(8, 6, rank=3, seed=1, alpha=6.0)
    with torch.no_grad():
        made.b.normal_()
    return made


@pytest.fixture
def x():
    return torch.randn(2, 5, 8)


def test_it_is_a_linear_with_a_linears_names(linear, delta, x):
    linear.choose(delta)
    assert list(linear.state_dict()) == ["weight", "bias"]
    assert list(linear.children()) == []
    linear.choose(None)
    assert torch.equal(linear(x), nn.functional.linear(x, linear.weight, linear.bias))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("grad", [True, False])
def test_the_formula(linear, delta, x, training, grad):
    linear.train(training).choose(delta)
    weight = linear.weight + 2.0 * delta.b @ delta.a
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(linear(x), x @ weight.T + linear.bias)


def test_zero_at_the_start_and_from_its_seed_alone():
    first, again, other = (LowRankDelta(8, 6, 3, seed) for seed in (1, 1, 2))
    assert not first.product().any()
    assert torch.equal(first.a, again.a)
    assert not torch.equal(first.a, other.a)
    assert first.scale == 1.0
    assert 0.5 < LowRankDelta(64, 6, 32, 1).a.var().item() * 64 < 2.0


def test_b_learns_first_and_then_a(linear, x):
    delta = LowRankDelta(8, 6, 3, seed=1)
    linear.train().choose(delta)
    linear(x).square().sum().backward()
    assert delta.b.grad.any()
    assert not delta.a.grad.any()
    delta.b.data.normal_()
    linear(x).square().sum().backward()
    assert delta.a.grad.any()


def test_at_inference_the_weight_is_computed_once(linear, delta, x, monkeypatch):
    made = []
    product = LowRankDelta.product
    monkeypatch.setattr(LowRankDelta, "product", lambda self: made.append(1) or product(self))
    linear.choose(delta)
    with torch.no_grad():
        for _ in range(3):
            linear(x)
    assert len(made) == 1
    linear(x)
    assert len(made) == 2, "with a gradient it is part of the graph"


@pytest.mark.parametrize("change", ["optimizer", "load", "weight", "to", "choose", "train"])
def test_a_change_is_never_missed(linear, delta, x, change):
    linear.choose(delta)
    with torch.no_grad():
        linear(x)  # what is kept is of before
    if change == "optimizer":
        linear(x).sum().backward()
        torch.optim.SGD(delta.parameters(), 0.1).step()
    elif change == "load":
        delta.load_state_dict({name: t + 1 for name, t in delta.state_dict().items()})
    elif change == "weight":
        with torch.no_grad():
            linear.weight.mul_(2)
    elif change == "to":
        linear.double(), delta.double()
        x = x.double()
    else:  # written past autograd: choosing again or a change of mode drops what was kept
        delta.b.data += 1
        linear.choose(delta) if change == "choose" else linear.train().eval()
    with torch.no_grad():
        torch.testing.assert_close(linear(x), x @ (linear.weight + 2.0 * delta.b @ delta.a).T + linear.bias)


def test_what_is_kept_under_autocast_has_full_precision(linear, delta, x):
    linear.choose(delta)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            linear(x)
        assert torch.equal(linear.effective_weight(), linear.weight + delta.product())


def test_kept_follows_parameters_made_under_inference_mode():
    with torch.inference_mode():
        source = torch.ones(2)
        kept = Kept(lambda: source * 2, [source])
        assert torch.equal(kept(), torch.full((2,), 2.0))


@pytest.fixture
def site():
    made = AnchoredBottleneck(32, 5, seed=3)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return made


def test_a_folded_bottleneck_is_the_same_map(site):
    hidden = torch.randn(3, 7, 32) * 2 + 1
    with torch.no_grad():
        torch.testing.assert_close(site.folded()(hidden), site(hidden), atol=1e-6, rtol=1e-6)
        assert (site(hidden) - hidden).abs().max() > 0.1
        for shape in [(1, 1, 32), (1, 7, 32), (7, 32)]:
            some = torch.randn(shape)
            torch.testing.assert_close(site.folded()(some), site(some), atol=1e-6, rtol=1e-6)


def test_a_folded_closed_bottleneck_changes_no_bit():
    hidden = torch.randn(3, 7, 32)
    with torch.no_grad():
        assert torch.equal(AnchoredBottleneck(32, 5, seed=3).folded()(hidden), hidden)


def test_the_student_folds_at_inference_only(make, ids, monkeypatch):
    folded = []
    original = AnchoredBottleneck.folded
    monkeypatch.setattr(AnchoredBottleneck, "folded", lambda self: folded.append(self) or original(self))
    student = make(trained=True)
    student.choose("reasoning")
    with torch.no_grad():
        quick = [student(ids).logits for _ in range(3)][-1]
    assert len(folded) == 2, "two sites, once each"
    whole = student(ids).logits
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        student(ids)
    student.train()
    with torch.no_grad():
        student(ids)
    assert len(folded) == 2
    torch.testing.assert_close(quick, whole, atol=1e-5, rtol=1e-5)


def test_what_was_written_past_autograd_is_seen_after_a_change_of_mode(make, ids):
    student = make(trained=True)
    student.choose("reasoning")
    with torch.no_grad():
        student(ids)
        student.adapters["reasoning"].sites["1"].up.weight.data *= -1
        torch.testing.assert_close(
            student.train().eval()(ids).logits, student.train()(ids).logits, atol=1e-5, rtol=1e-5
        )


def test_a_step_of_training_between_two_answers_is_seen(make, ids):
    """What was folded and merged for the first answer must not answer the second time."""
    student = make(trained=True)
    student.choose("reasoning")
    with torch.no_grad():
        before = student(ids).logits
    student(ids, labels=ids).loss.backward()
    torch.optim.AdamW(student.adapters["reasoning"].parameters(), 0.01).step()
    with torch.no_grad():
        after = student(ids).logits
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, student(ids).logits.detach(), atol=1e-5, rtol=1e-5)
