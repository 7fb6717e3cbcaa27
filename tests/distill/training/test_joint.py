"""Several capabilities at once: turns, equal weights, the worst one decides, and what is not taught keeps its bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from nexus_core.distill.batches import Batches, collate
from nexus_core.distill.joint import JointBatches, JointObjective, JointValidation, answer_turns, turns_by_need
from nexus_core.distill.loop import anchor_errors, read_numbers
from nexus_core.distill.objective import DistillObjective, Moment
from nexus_core.distill.optim import select_trained
from nexus_core.distill.retention import Validation
from nexus_core.distill.settings import PhaseSettings
from nexus_core.distill.trainer import train
from nexus_core.errors import UsageError
from nexus_core.types import Contract, Direction, Thresholds

JOINT = PhaseSettings("joint", True, 10, 1e-2, 1e-2, -1, 0, 1.0)


def test_capabilities_take_turns_in_the_order_given(tiny):
    sources = {name: Batches(tiny.new_rows(40, i), seed=42, batch_size=4) for i, name in enumerate("abc")}
    joint = JointBatches(sources)
    for position in [0, 1, 2, 3, 31, 7]:  # in any order
        batch, name = joint.at(position), "abc"[position % 3]
        assert batch.capability == name
        assert batch.indices == sources[name].at(position // 3).indices
        assert torch.equal(batch.input_ids, sources[name].at(position // 3).input_ids)


def test_more_turns_are_spread_over_the_round_and_miss_no_batch(tiny):
    sources = {name: Batches(tiny.new_rows(40, i), seed=42, batch_size=4) for i, name in enumerate("abc")}
    joint = JointBatches(sources, {"b": 3})
    found = [joint.at(position) for position in range(10)]
    assert "".join(batch.capability for batch in found) == "babcb" * 2
    own = [batch.indices for batch in found if batch.capability == "b"]
    assert own == [sources["b"].at(i).indices for i in range(6)]


def test_turns_may_change_at_any_position_and_no_batch_is_missed_or_met_twice(tiny):
    sources = {name: Batches(tiny.new_rows(40, i), seed=42, batch_size=4) for i, name in enumerate("abc")}
    joint, plain = JointBatches(sources), JointBatches(sources)
    joint.turn(4, {"a": 1, "b": 3, "c": 1})
    joint.turn(11, {"a": 1, "b": 1, "c": 2})
    found = [joint.at(position) for position in range(20)]
    assert "".join(batch.capability for batch in found) == "abca" + "babcb" + "ba" + "cabc" * 2 + "c"
    assert [batch.indices for batch in found[:4]] == [plain.at(i).indices for i in range(4)]
    for name, source in sources.items():
        own = [batch.indices for batch in found if batch.capability == name]
        assert own == [source.at(i).indices for i in range(len(own))]
    before = joint.plan
    joint.turn(11, {"a": 2, "b": 1, "c": 1})  # asked again at the same place: the later answer stands
    assert joint.plan == (*before[:-1], (11, {"a": 2, "b": 1, "c": 1}))


def test_who_lacks_more_has_more_turns():
    reached = {"met": 1.2, "goal": 1.0, "near": 0.9, "half": 0.8, "far": 0.6}
    assert turns_by_need(reached, 5) == {"met": 1, "goal": 1, "near": 2, "half": 3, "far": 5}
    assert turns_by_need({**reached, "worse": -1.0}, 5) == {
        "met": 1,
        "goal": 1,
        "near": 1,
        "half": 1,
        "far": 2,
        "worse": 5,
    }
    assert turns_by_need({"met": 1.2, "near": 0.95}, 5) == {
        "met": 1,
        "near": 3,
    }  # a small lack is little more than chance
    assert set(turns_by_need(reached, 1).values()) == {1}


def test_few_answer_tokens_among_many_have_more_turns():
    lengths = {"sums": (90.0, 30.0), "texts": (600.0, 15.0), "calls": (80.0, 25.0)}
    assert answer_turns(lengths, 4) == {"sums": 1, "texts": 4, "calls": 1}
    assert answer_turns(lengths, 100)["texts"] == 13


@pytest.fixture
def uneven(tiny):
    """Two capabilities in turns, two batches of each; those of one have ten times the answer positions."""
    few = [replace(collate(tiny.new_rows(2, seed)), capability="letters") for seed in (1, 2)]
    many = [replace(collate(tiny.new_rows(20, seed)), capability="other") for seed in (3, 4)]
    return [few[0], many[0], few[1], many[1]]


def test_each_capability_counts_the_same_whatever_its_answers_length(tiny, uneven):
    student, own = tiny.new_student(), DistillObjective(tiny.settings(), [tiny.SPACE])
    objective = JointObjective({"letters": own, "other": own}, len(uneven))
    moment = Moment(0, positions=sum(batch.positions for batch in uneven))
    found = [objective(student, batch, moment) for batch in uneven]
    assert student.chosen is None
    alone = []
    for batch in uneven:
        with student.using(batch.capability):
            alone.append(own(student, batch, Moment(0)))
    for term, single in zip(found, alone, strict=True):
        torch.testing.assert_close(term.total, single.total / 4)
        torch.testing.assert_close(term.watched, single.watched / 4)
    mean = {name: (alone[i].parts["nll"] + alone[i + 2].parts["nll"]) / 2 for i, name in enumerate(tiny.TABLES)}
    for i, name in enumerate(tiny.TABLES):
        own = read_numbers([found[i], found[i + 2]], torch.zeros(()), [uneven[i], uneven[i + 2]])[f"nll/{name}"]
        assert own == pytest.approx(float(mean[name]), rel=1e-5)
    total = torch.stack([term.parts["nll"] for term in found]).sum()
    torch.testing.assert_close(total, torch.stack(list(mean.values())).mean())


def test_drift_is_asked_by_capability_and_not_while_rows_grow_longer():
    seen = {"anchor_distance": 0.3, "anchor_distance/a": 0.2, "anchor_distance/b": 0.4}
    batches = [
        SimpleNamespace(capability=name, growing=grows) for name, grows in (("a", False), ("b", True), ("c", False))
    ]
    assert anchor_errors(seen, batches) == {"a": 0.2}
    assert anchor_errors(seen, [SimpleNamespace(capability="", growing=False)]) == {"": 0.3}
    assert anchor_errors({}, batches) == {}


def test_each_batch_is_answered_by_its_own_adapter(tiny, uneven):
    student = tiny.new_student()
    own = DistillObjective(tiny.settings(), [tiny.SPACE])
    terms = JointObjective({"letters": own, "other": own}, 4)(student, uneven[0], Moment(0))
    torch.autograd.backward(terms.total)
    for name, parameter in student.named_parameters():
        if name.startswith("adapters."):
            assert (parameter.grad is None) == name.startswith("adapters.other.")


def test_an_isolated_adapter_can_be_taught_with_the_others(tiny, uneven):
    student = tiny.new_student()
    student.adapters["letters"].arch = replace(student.adapters["letters"].arch, isolated=True)
    own = DistillObjective(tiny.settings(), [])
    JointObjective({"letters": own, "other": own}, 4)(student, uneven[0], Moment(0))
    assert student.chosen is None


# --- what is trained ----------------------------------------------------------------------------------------------


def names_of(trained):
    return set(trained.adapter), set(trained.backbone)


def test_several_adapters_and_the_whole_backbone_are_thawed(tiny):
    student = tiny.new_student(("letters", "other", "third"))
    trained = select_trained(student, ("letters", "other"), JOINT)
    adapters, backbone = names_of(trained)
    everything = {name for name, _ in student.named_parameters()}
    assert adapters == {n for n in everything if n.startswith(("adapters.letters.", "adapters.other."))}
    assert backbone == {n for n in everything if not n.startswith("adapters.")}
    assert {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"} <= backbone
    thawed = {name for name, parameter in student.named_parameters() if parameter.requires_grad}
    assert thawed == adapters | backbone == set(trained.all)


@pytest.mark.parametrize(("rate", "blocks"), [(0.0, -1), (1e-2, 0)])
def test_without_a_rate_or_blocks_the_backbone_stays_frozen(tiny, rate, blocks):
    student = tiny.new_student(("letters", "other"))
    trained = select_trained(student, ("other",), replace(JOINT, backbone_rate=rate, backbone_blocks=blocks))
    assert not trained.backbone
    assert all(name.startswith("adapters.other.") for name in trained.adapter)


def test_a_capability_is_no_prefix_of_another(tiny):
    student = tiny.new_student(("letters", "letters_too"))
    trained = select_trained(student, ("letters",), replace(JOINT, backbone_blocks=0))
    assert all(name.startswith("adapters.letters.") for name in trained.all)


def test_an_adapter_that_is_not_there_is_named_and_nothing_is_frozen(tiny):
    student = tiny.new_student()
    with pytest.raises(UsageError, match='no adapter "chess"'):
        select_trained(student, ("letters", "chess"), JOINT)
    assert all(parameter.requires_grad for parameter in student.parameters())


def test_what_is_not_taught_keeps_its_bytes_and_what_is_taught_learns(tiny, tmp_path):
    job = tiny.joint_job(tmp_path, steps=60, validation=None)
    before = {name: tensor.clone() for name, tensor in job.student.state_dict().items()}
    outcome = train(job)
    assert (outcome.reason, outcome.steps, outcome.positions) == ("ceiling", 60, 120)
    after = job.student.state_dict()
    for name in before:
        assert torch.equal(before[name], after[name]) == name.startswith("adapters.third."), name
    assert tiny.held_out_loss(job.student, "letters") < 0.3
    assert tiny.held_out_loss(job.student, "other") < 0.3
    row = json.loads((job.journal / "steps.jsonl").read_text().splitlines()[20])
    assert row["nll"] == pytest.approx((row["nll/letters"] + row["nll/other"]) / 2, rel=1e-5)
    assert job.student.chosen is None
    assert not job.student.training


# --- the worst one decides ----------------------------------------------------------------------------------------


class Says:
    """Right on the first `share` of each hundred."""

    def __init__(self, share):
        self.share = share

    def generate(self, samples, options):
        return [sample.target if int(sample.id) % 100 < self.share else "?" for sample in samples]


def validation(tiny, share, lower=False):
    if lower:
        metric = tiny.Letters()
        metric.direction = Direction.LOWER
        metric.score = lambda sample, output: float(output != sample.target)
        asked = Contract("letters", "own", "error", Direction.LOWER, 1.25, None, 1, 8, Thresholds(0.1, 0.05))
        return Validation(metric, asked, 0.2, Says(share))  # the goal is 0.25
    return Validation(tiny.Letters(), tiny.contract(), 1.0, Says(share))  # the goal is 0.97


@pytest.fixture
def retention(tiny):
    return replace(tiny.settings().retention, screen=50, full=100)


@pytest.mark.parametrize(
    ("higher", "lower", "worst", "reached", "met"),
    [
        (98, 90, "higher", 98 / 97, True),
        (98, 100, "higher", 98 / 97, True),  # not one error: more than the goal, and a finite number
        (98, 75, "lower", 1.0, False),  # the goal itself, without any margin
        (98, 70, "lower", 0.8, False),
        (60, 90, "higher", 60 / 97, False),
        (98, 20, "lower", -1.2, False),
    ],
)
def test_the_one_that_lacks_most_is_the_score(tiny, retention, higher, lower, worst, reached, met):
    given = {"higher": validation(tiny, higher), "lower": validation(tiny, lower, lower=True)}
    joint = JointValidation(given)
    found = joint.measure(retention, full=True)
    assert found.score == pytest.approx(reached)
    assert (found.teacher, found.goal, found.n, found.full, found.met) == (1.0, 1.0, 200, True, met)
    assert found.retention == found.parts[worst]["retention"]
    assert found.low <= found.score <= found.high
    assert found.parts["higher"]["score"] == pytest.approx(higher / 100)
    assert found.parts["lower"]["score"] == pytest.approx(1 - lower / 100)
    json.dumps(found.parts, allow_nan=False)
    assert joint.better(1.0, 0.9)
    assert not joint.better(0.9, 0.9)
    assert joint.gain(0.5) == 0.5


def test_nobody_is_asked_everything_while_one_of_them_is_hopeless(tiny, retention):
    joint = JointValidation({"good": validation(tiny, 99), "bad": validation(tiny, 3)})
    found = joint.measure(retention)
    assert (found.full, found.met, found.n) == (False, False, 100)
    assert not any(part["met"] for part in found.parts.values())
    assert found.parts["good"]["score"] > 0.9


def test_all_of_them_must_be_measured_on_everything(tiny, retention):
    found = JointValidation({"good": validation(tiny, 99), "other": validation(tiny, 98)}).measure(retention)
    assert (found.full, found.met, found.n) == (True, True, 200)


@pytest.mark.parametrize("minimum", [0.0, -2.0])
def test_a_goal_of_nothing_or_less_can_be_reached(tiny, minimum):
    asked = Contract("letters", "own", "gain", Direction.HIGHER, None, minimum, 1, 8, Thresholds(0.1, 0.05))
    found = Validation(tiny.Letters(), asked, 1.0, Says(0))
    assert found.reached(minimum) == 1
    assert found.reached(minimum - 0.5) < 1 < found.reached(minimum + 0.5)


def test_training_ends_when_the_worst_has_met_its_contract(tiny, tmp_path):
    job = tiny.joint_job(tmp_path, steps=100)
    outcome = train(job)
    assert outcome.reason == "contract met"
    assert outcome.steps < 100
    assert outcome.measured["met"]
    assert set(outcome.measured["parts"]) == set(tiny.TABLES)
    assert min(part["score"] for part in outcome.measured["parts"].values()) > 0.97


# --- killed, resumed, on several threads --------------------------------------------------------------------------


def numbers(job):
    rows = [json.loads(line) for line in (job.journal / "steps.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["nll/other"]) for row in rows if "event" not in row]


class Stops(JointBatches):
    """Batches that end at a position, in the middle of a step, as a machine may."""

    def __init__(self, batches, position):
        super().__init__(batches._sources if batches else {})
        self.position = position

    def at(self, position):
        if position == self.position:
            raise MemoryError
        return super().at(position)


def test_fewer_batches_in_a_step_than_capabilities(tiny, tmp_path):
    """They take turns over the steps, and a line has the loss of the one whose turn it was."""
    job = tiny.joint_job(tmp_path, steps=3, validation=None)
    settings = replace(job.settings, accumulate=1)
    objective = JointObjective({name: DistillObjective(settings, [tiny.SPACE]) for name in tiny.TABLES}, 1)
    train(replace(job, settings=settings, objective=objective))
    rows = [json.loads(line) for line in (job.journal / "steps.jsonl").read_text().splitlines()]
    steps = [row for row in rows if "event" not in row]
    assert [("nll/letters" in row, "nll/other" in row) for row in steps] == [
        (True, False),
        (False, True),
        (True, False),
    ]
    assert [row["nll"] for row in steps] == [row.get("nll/letters", row.get("nll/other")) for row in steps]


def test_resumed_and_on_more_threads_it_ends_bit_equal(tiny, tmp_path):
    whole = tiny.joint_job(tmp_path / "whole", steps=12, rounds=2, workers=1)
    train(whole)
    assert len(whole.batches.plan) > 1, "the turns changed before the stop"
    assert whole.batches.plan[1][0] < 10 * 4
    job = tiny.joint_job(tmp_path / "stopped", steps=12, rounds=2, workers=3)
    with pytest.raises(MemoryError):
        train(replace(job, batches=Stops(job.batches, 10 * 4 + 1)))
    again = tiny.joint_job(tmp_path / "stopped", steps=12, rounds=2, workers=2)
    train(again)
    ended = again.student.state_dict()
    assert all(torch.equal(tensor, ended[name]) for name, tensor in whole.student.state_dict().items())
    assert numbers(again) == numbers(whole)
    events = [json.loads(line) for line in (again.journal / "steps.jsonl").read_text().splitlines()]
    assert not [row for row in events if row.get("event") == "rollback"]


def test_a_finished_joint_training_is_only_read(tiny, tmp_path):
    job = tiny.joint_job(tmp_path, steps=8)
    first = train(job)
    fresh = tiny.joint_job(tmp_path, steps=8, batches=Stops(None, 0))
    assert train(fresh) == first
    ended = fresh.student.state_dict()
    assert all(torch.equal(tensor, ended[name]) for name, tensor in job.student.state_dict().items())
