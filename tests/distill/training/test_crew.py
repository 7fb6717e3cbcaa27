"""Batches of a step on several threads: the same bits for any number of them, and nothing is left behind by a failure."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from nexus_core.distill.batches import collate
from nexus_core.distill.crew import Crew, twin
from nexus_core.distill.objective import Terms

CAPABILITIES = ("letters", "other")
COUNT = 7


@pytest.fixture
def student(tiny):
    """With gates that are open, so that each adapter answers in its own way."""
    student = tiny.new_student()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in student.named_parameters():
            if name.startswith("adapters."):
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return student.train()


@pytest.fixture
def batches(tiny):
    return [collate(tiny.new_rows(8 + i, seed=i)) for i in range(COUNT)]


def working(batches, seconds=()):
    """The loss of a batch, each with the other adapter than the one before; some take their time."""

    def work(student, i):
        with student.using(CAPABILITIES[i % 2]):
            time.sleep(seconds[i] if seconds else 0)
            batch = batches[i]
            logits = student(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]
            assert student.chosen == CAPABILITIES[i % 2]
        loss = torch.nn.functional.cross_entropy(logits, batch.labels)
        return Terms(loss, loss.detach(), {"index": torch.tensor(float(i))})

    return work


def found_by(student, batches, workers, seconds=()):
    """Terms and gradients of one step."""
    student.zero_grad()
    crew = Crew(student, list(student.parameters()), workers)
    terms = crew.gradients(working(batches, seconds), len(batches))
    crew.close()
    gradients = {name: None if p.grad is None else p.grad.clone() for name, p in student.named_parameters()}
    return terms, gradients


@pytest.mark.parametrize("workers", [2, 3, 9])
def test_the_number_of_workers_changes_no_bit(student, batches, workers):
    terms, alone = found_by(student, batches, 1)
    late_first = [0.05, 0.0, 0.03, 0.0, 0.0, 0.02, 0.0]
    others, together = found_by(student, batches, workers, late_first)
    assert [float(t.parts["index"]) for t in others] == list(range(COUNT))
    assert [t.total.item() for t in others] == [t.total.item() for t in terms]
    assert all(torch.equal(alone[name], together[name]) for name in alone)


def test_the_gradients_are_those_of_the_sum(student, batches):
    _, found = found_by(student, batches, 3)
    student.zero_grad()
    total = torch.stack([working(batches)(student, i).total for i in range(COUNT)]).sum()
    torch.autograd.backward(total)
    for name, parameter in student.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, atol=1e-6, rtol=1e-5)
        assert found[name].any(), "both adapters and the backbone were asked for"


def test_a_parameter_without_part_in_it_has_no_gradient(student, batches):
    crew = Crew(student, list(student.parameters()), 2)
    crew.gradients(lambda student, i: working(batches)(student, 2 * i), 2)  # letters alone
    crew.close()
    for name, parameter in student.named_parameters():
        assert (parameter.grad is None) == name.startswith("adapters.other.")


def test_two_parameters_never_share_a_gradient():
    """Autograd hands out one tensor for both terms of a sum; clipping and adding in place would count twice."""
    module = torch.nn.Module()
    module.one, module.two = torch.nn.Parameter(torch.ones(3)), torch.nn.Parameter(torch.ones(3))

    def work(module, i):
        loss = ((module.one + module.two) ** 2).sum()
        return Terms(loss, loss.detach())

    for workers in (1, 2):
        module.zero_grad()
        crew = Crew(module, list(module.parameters()), workers)
        crew.gradients(work, 3)
        crew.close()
        assert module.one.grad.tolist() == module.two.grad.tolist() == [12.0] * 3
        assert module.one.grad.data_ptr() != module.two.grad.data_ptr()


class Broken(Exception):
    """What a worker may raise."""


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_an_exception_reaches_the_caller_when_everybody_has_stopped(student, batches, workers):
    before = set(threading.enumerate())
    crew = Crew(student, list(student.parameters()), workers)
    busy, begun = set(), []

    def work(student, i):
        begun.append(i)
        busy.add(i)
        try:
            if i == 1:
                raise Broken("batch 1")
            time.sleep(0.05)
            return working(batches)(student, i)
        finally:
            busy.discard(i)

    with pytest.raises(Broken, match="batch 1"):
        crew.gradients(work, COUNT)
    assert not busy
    assert len(begun) <= 1 + workers, "nobody began another batch after it"
    crew.gradients(working(batches), COUNT)  # the crew can still work
    crew.close()
    assert set(threading.enumerate()) == before


def test_a_twin_shares_the_parameters_and_not_the_choice(student):
    other = twin(student)
    own, shared = dict(student.named_parameters()), dict(other.named_parameters())
    assert own.keys() == shared.keys()
    assert all(shared[name] is parameter for name, parameter in own.items())
    assert all(a is b for a, b in zip(student.buffers(), other.buffers(), strict=True))
    ids = torch.tensor([[1, 18], [2, 18]])
    with torch.no_grad():
        student.choose("letters")
        assert other.chosen is None
        other.choose("other")
        assert student.chosen == "letters"
        mine, its = student(ids).logits, other(ids).logits
        student.choose("other")
        assert torch.equal(student(ids).logits, its)
        assert not torch.equal(mine, its)


def test_a_twin_of_a_student_that_has_chosen_answers_with_its_own_modules(student):
    """What is chosen in the original is chosen in the copy, and a step of training is seen by both."""
    student.eval()
    ids = torch.tensor([[1, 18], [2, 18]])
    with student.using("letters"), torch.no_grad():
        before = student(ids).logits
        other = twin(student)
        assert other.chosen == "letters"
        assert torch.equal(other(ids).logits, before)
        student.adapters["letters"].deltas["0__self_attn__q_proj"].b.add_(1.0)
        student.adapters["letters"].sites["0"].gate.add_(1.0)
        after = student(ids).logits
        assert not torch.equal(after, before)
        assert torch.equal(other(ids).logits, after)


def test_each_twin_says_where_it_looks_itself(student, batches):
    """What is asked, and the change to another attention, belong to one student: threads do not see each other's."""
    from nexus_core.distill.looks import TAUGHT, Look, looking
    from nexus_core.hf.attention import attention_by

    student.set_attn_implementation("sdpa")

    def work(student, i):
        look = Look([0, 1], *batches[i].answer.nonzero(as_tuple=True))
        with student.using(CAPABILITIES[i % 2]), attention_by(student, TAUGHT), looking(student, {0: look}):
            hidden = student.model(input_ids=batches[i].input_ids).last_hidden_state
            time.sleep(0.01 * (i % 3))
            loss = (look.weights**2).sum() + hidden.mean()
        assert student.config._attn_implementation == "sdpa"
        return Terms(loss, loss.detach())

    found = []
    for workers in (1, 3):
        student.zero_grad()
        crew = Crew(student, list(student.parameters()), workers)
        crew.gradients(work, COUNT)
        crew.close()
        found.append([p.grad for p in student.parameters() if p.grad is not None])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
