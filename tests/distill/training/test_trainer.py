"""The training of one adapter: it learns, touches nothing else, survives what goes wrong, and ends when it should."""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace

import pytest
import torch

from nexus_core.distill.recovery import Cause, DistillFailed
from nexus_core.distill.retention import Validation
from nexus_core.distill.trainer import train
from nexus_core.errors import DataError

GOOD = 0.1  # cross-entropy on held-out rows; an undisturbed training reaches less than half of it, an untrained student 3.9


def lines(job):
    return [json.loads(line) for line in (job.journal / "steps.jsonl").read_text().splitlines()]


def events(job, kind):
    return [row for row in lines(job) if row.get("event") == kind]


def step_numbers(job):
    return [row["step"] for row in lines(job) if "event" not in row]


def state_of(student):
    return {name: tensor.clone() for name, tensor in student.state_dict().items()}


@pytest.fixture
def job(tiny, tmp_path):
    return tiny.new_job(tmp_path)


def test_it_learns_and_touches_no_other_byte(tiny, job):
    before = state_of(job.student)
    modes = [(name, p.requires_grad) for name, p in job.student.named_parameters()]
    assert tiny.held_out_loss(job.student) > 3
    outcome = train(job)
    assert tiny.held_out_loss(job.student) < GOOD
    assert (outcome.reason, outcome.steps, outcome.rollbacks) == ("ceiling", 60, ())
    changed = {name for name, tensor in job.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.startswith("adapters.letters.") for name in changed)
    assert modes == [(name, p.requires_grad) for name, p in job.student.named_parameters()]
    assert job.student.chosen is None
    assert not job.student.training
    assert step_numbers(job) == list(range(1, 61))


def test_a_step_is_logged_with_its_terms(job):
    train(job)
    row = lines(job)[9]
    wanted = {"loss", "ce", "kl", "anchor", "anchor_error/0", "gradient_norm", "rate", "memory_mb", "tokens_per_second"}
    assert wanted <= set(row)
    assert row["loss"] == pytest.approx(row["output"] + row["anchor"], rel=1e-5)
    summary = json.loads((job.journal / "summary.json").read_text())
    assert (summary["reason"], summary["steps"], summary["rollbacks"]) == ("ceiling", 60, [])


@pytest.mark.parametrize(
    ("values", "causes"),
    [
        ({35: float("nan")}, [Cause.LOSS_NOT_FINITE]),
        ({35: float("inf")}, [Cause.LOSS_NOT_FINITE]),
        ({35: 1e3}, [Cause.SPIKE]),
        ({2: float("nan"), 30: 1e3, 31: float("inf")}, [Cause.LOSS_NOT_FINITE, Cause.SPIKE, Cause.LOSS_NOT_FINITE]),
    ],
    ids=["nan", "inf", "spike", "all of them"],
)
def test_it_recovers_from_bad_batches(tiny, job, values, causes):
    outcome = train(replace(job, batches=tiny.Poisoned(job.batches, values)))
    assert tiny.held_out_loss(job.student) < GOOD
    assert [row["cause"] for row in events(job, "rollback")] == [cause.value for cause in causes]
    assert [row["position"] for row in events(job, "rollback")] == list(values)
    assert [rollback["position"] for rollback in outcome.rollbacks] == list(values)
    assert step_numbers(job) == list(range(1, outcome.steps + 1))
    assert outcome.steps == 60 + outcome.lost
    assert outcome.positions == outcome.steps + len(values)


class BadGradient:
    """An objective whose loss is fine and whose gradient is not, at one step."""

    def __init__(self, objective, step):
        self.objective, self.step, self.done = objective, step, False

    def __call__(self, student, batch, moment):
        terms = self.objective(student, batch, moment)
        if moment.step != self.step or self.done:
            return terms
        self.done = True
        gate = next(p for name, p in student.named_parameters() if name.endswith("letters.sites.0.gate"))
        return replace(terms, total=terms.total + (gate - gate.detach()).abs().sqrt())  # 0, and infinite beside it


def test_it_recovers_from_a_bad_gradient(tiny, job):
    train(replace(job, objective=BadGradient(job.objective, 30)))
    assert [row["cause"] for row in events(job, "rollback")] == [Cause.GRADIENT_NOT_FINITE.value]
    assert tiny.held_out_loss(job.student) < GOOD


class Vandal:
    """Batches that damage the best checkpoint on the disk, and then need it."""

    def __init__(self, poisoned, folder, position):
        self.poisoned, self.folder, self.position = poisoned, folder, position

    def at(self, position):
        if position == self.position:
            name = json.loads((self.folder / "index.json").read_text())["best"][0]
            path = self.folder / name / "weights.safetensors"
            content = bytearray(path.read_bytes())
            content[-1] ^= 1
            path.write_bytes(content)
        return self.poisoned.at(position)


def test_it_recovers_although_the_best_checkpoint_is_damaged(tiny, job):
    batches = Vandal(tiny.Poisoned(job.batches, {35: float("nan")}), job.checkpoints, 35)
    train(replace(job, batches=batches))
    assert tiny.held_out_loss(job.student) < GOOD
    [damaged] = events(job, "damaged")
    assert "00000030" in damaged["reason"]
    assert [row["to"] for row in events(job, "rollback")] == [20]


class Endless:
    """Every batch from one position on is bad."""

    def __init__(self, tiny, batches, first, value):
        self.tiny, self.batches, self.first, self.value, self.asked = tiny, batches, first, value, 0

    def at(self, position):
        self.asked = max(self.asked, position)
        values = {position: self.value} if position >= self.first else {}
        return self.tiny.Poisoned(self.batches, values).at(position)


@pytest.mark.parametrize(("first", "value"), [(0, float("nan")), (30, 1e3)], ids=["nan from the start", "spike"])
def test_a_never_ending_trouble_ends_in_a_clear_failure(tiny, job, first, value):
    batches = Endless(tiny, job.batches, first, value)
    most = job.settings.recovery.most_rollbacks
    with pytest.raises(DistillFailed, match=f"went back {most} times") as caught:
        train(replace(job, batches=batches))
    assert batches.asked == first + most
    assert caught.value.message.count("step ") == most + 1
    assert len(events(job, "rollback")) == most + 1
    summary = json.loads((job.journal / "summary.json").read_text())
    assert summary["reason"] == "failed"
    assert summary["error"] == caught.value.message


# --- drift and the hard check --------------------------------------------------------------------------------------


class Forgetful:
    """An objective that pulls the coordinates away from the teacher's in some of its calls, without saying so."""

    def __init__(self, objective, calls):
        self.objective, self.calls, self.made = objective, calls, 0

    def __call__(self, student, batch, moment):
        terms = self.objective(student, batch, moment)
        if not torch.is_grad_enabled():
            return terms
        self.made += 1
        if self.made - 1 not in self.calls:
            return terms
        bias = next(p for name, p in student.named_parameters() if name.endswith("letters.sites.0.down.bias"))
        return replace(terms, total=terms.total + 100 * (bias - 3).square().sum())


def test_a_failed_hard_check_repairs_with_a_raised_anchor(tiny, tmp_path):
    settings = tiny.settings(85, check_every=20, repair_steps=10, anchor_tolerance=100.0, spike_least=1e9)
    job = tiny.new_job(tmp_path, settings=settings)
    train(replace(job, objective=Forgetful(job.objective, range(46, 60))))
    checks = {row["step"]: row for row in events(job, "check")}
    assert checks[40]["repairing"] is False
    assert checks[60]["repairing"] is True
    assert checks[60]["error"] > 2 * checks[40]["error"]
    boosts = {row["step"]: row["anchor_boost"] for row in lines(job) if "event" not in row}
    assert [step for step, boost in boosts.items() if boost > 1 and step < 80] == list(range(61, 71))
    assert checks[70]["error"] < checks[40]["error"]
    assert not events(job, "rollback")
    assert tiny.held_out_loss(job.student) < GOOD


def test_a_repair_that_does_not_help_goes_back_to_sound_weights(tiny, tmp_path):
    settings = tiny.settings(85, check_every=20, repair_steps=5, anchor_tolerance=100.0, spike_least=1e9)
    job = tiny.new_job(tmp_path, settings=settings)
    train(replace(job, objective=Forgetful(job.objective, range(46, 65))))
    [rollback] = events(job, "rollback")
    assert rollback["cause"] == Cause.REPAIR.value
    assert (rollback["step"], rollback["to"]) == (65, 50)  # not to 60, where the check had failed
    assert tiny.held_out_loss(job.student) < GOOD


def test_anchor_drift_goes_back(tiny, tmp_path):
    settings = tiny.settings(85, anchor_decay=0.9, anchor_tolerance=0.3, spike_least=1e9)
    job = tiny.new_job(tmp_path, settings=settings)
    train(replace(job, objective=Forgetful(job.objective, range(46, 58))))
    causes = [row["cause"] for row in events(job, "rollback")]
    assert causes
    assert set(causes) == {Cause.DRIFT.value}
    assert tiny.held_out_loss(job.student) < GOOD


# --- when it ends --------------------------------------------------------------------------------------------------


def validated(tiny, job, teacher=1.0, **fields):
    reader = tiny.Reader(job.student)
    validation = Validation(tiny.Letters(), tiny.contract(), teacher, reader)
    return replace(job, validation=validation, **fields), reader


def test_it_stops_when_the_contract_is_met(tiny, job):
    job, _ = validated(tiny, job)
    outcome = train(job)
    assert outcome.reason == "contract met"
    assert outcome.steps < 60
    assert outcome.measured["score"] >= 0.98
    assert outcome.measured["full"]
    assert [row["step"] for row in events(job, "evaluation")][-1] == outcome.steps
    assert 0 < outcome.evaluation_seconds < outcome.seconds


def test_it_stops_when_it_no_longer_improves(tiny, tmp_path):
    settings = tiny.settings(400, anchor_tolerance=1e6)
    settings = replace(
        settings,
        phases=(replace(settings.phases[0], adapter_rate=1e-9),),
        retention=replace(settings.retention, first=0.1, every=10, patience=3),
    )
    job, _ = validated(tiny, tiny.new_job(tmp_path, settings=settings))
    outcome = train(job)
    assert outcome.reason == "stalled"
    assert outcome.steps == 70


def test_at_the_ceiling_the_better_weights_are_kept(tiny, tmp_path):
    """The last steps ruin the student: what it knew at its best evaluation is what it ends with."""
    settings = tiny.settings(100, spike_least=1e9, anchor_tolerance=1e6)
    settings = replace(settings, retention=replace(settings.retention, every=60, margin=9.0))  # never met
    job, _ = validated(tiny, tiny.new_job(tmp_path, settings=settings))

    class Ruinous:
        def __call__(self, student, batch, moment):
            terms = job.objective(student, batch, moment)
            ruin = moment.step >= 40 + 60 - 10 and torch.is_grad_enabled()
            return replace(terms, total=-10 * terms.total) if ruin else terms

    outcome = train(replace(job, objective=Ruinous()))
    assert outcome.reason == "ceiling"
    evaluations = events(job, "evaluation")
    assert evaluations[-1]["score"] == outcome.measured["score"]
    assert outcome.measured["score"] >= max(row["score"] for row in evaluations)
    assert outcome.measured["score"] > 0.9


def test_the_joint_phase_follows_with_its_own_rates(tiny, tmp_path):
    settings = tiny.settings(40)
    joint = replace(
        settings.phases[0], name="joint", steps=20, backbone_rate=1e-3, backbone_blocks=1, adapter_rate=1e-3
    )
    job = tiny.new_job(tmp_path, settings=replace(settings, phases=(*settings.phases, joint)))
    before = state_of(job.student)
    poisoned = tiny.Poisoned(job.batches, {45: float("nan")})  # a way back inside the second phase
    outcome = train(replace(job, batches=poisoned))
    assert (outcome.steps, outcome.lost) == (65, 5)
    assert [(row["step"], row["name"]) for row in events(job, "phase")] == [(40, "joint")]
    assert [row["to"] for row in events(job, "rollback")] == [40]
    changed = {name for name, tensor in job.student.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("model.layers.0.") for name in changed)
    assert all(name.startswith(("adapters.letters.", "model.layers.0.")) for name in changed)


def test_accumulated_batches_are_one_larger_batch(tiny, tmp_path):
    class Halves:
        """Each batch of the other in two parts."""

        def __init__(self, rows):
            self.rows = rows

        def at(self, position):
            return tiny.collate(self.rows[position % 8 * 8 : position % 8 * 8 + 8])

    class Whole(Halves):
        def at(self, position):
            return tiny.collate(self.rows[position % 4 * 16 : position % 4 * 16 + 16])

    rows, states = tiny.new_rows(64, 3), []
    for name, batches, accumulate in (("one", Whole(rows), 1), ("two", Halves(rows), 2)):
        settings = replace(tiny.settings(4), accumulate=accumulate)
        job = tiny.new_job(tmp_path / name, settings=settings, batches=batches)
        outcome = train(job)
        assert (outcome.steps, outcome.positions) == (4, 4 * accumulate)
        states.append(state_of(job.student))
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4)


# --- interrupted and resumed ---------------------------------------------------------------------------------------


class Signals:
    """Batches that send this process a signal once."""

    def __init__(self, batches, position, number):
        self.batches, self.position, self.number = batches, position, number

    def at(self, position):
        if position == self.position:
            self.position = -1
            os.kill(os.getpid(), self.number)
        return self.batches.at(position)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_checkpoints_and_the_resumed_run_ends_bit_equal(tiny, tmp_path, number):
    whole = tiny.new_job(tmp_path / "whole")
    train(whole)
    before = signal.getsignal(number)
    job = tiny.new_job(tmp_path / "cut")
    with pytest.raises(KeyboardInterrupt):
        train(replace(job, batches=Signals(job.batches, 37, number)))
    assert signal.getsignal(number) == before
    index = json.loads((job.checkpoints / "index.json").read_text())
    assert index["latest"][0] == "00000038"
    assert index["best"][0] == "00000030"  # where a signal comes must not decide what is gone back to
    again = tiny.new_job(tmp_path / "cut")  # a new process would have a new student
    train(again)
    for name, tensor in whole.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], tensor), name
    assert step_numbers(again) == list(range(1, 61))


def test_it_trains_outside_the_main_thread(tiny, tmp_path):
    job, outcomes = tiny.new_job(tmp_path, settings=tiny.settings(10)), []
    thread = threading.Thread(target=lambda: outcomes.append(train(job)))
    thread.start()
    thread.join()
    assert [outcome.steps for outcome in outcomes] == [10]


def test_a_finished_training_is_only_read(tiny, tmp_path):
    job = tiny.new_job(tmp_path, settings=tiny.settings(20))
    outcome = train(job)

    class Forbidden:
        def at(self, position):
            raise AssertionError("nothing is left to train")

    again = tiny.new_job(tmp_path, settings=tiny.settings(20), batches=Forbidden())
    assert train(again) == outcome
    for name, tensor in job.student.state_dict().items():
        assert torch.equal(again.student.state_dict()[name], tensor)


def test_a_checkpoint_of_other_settings_or_data_is_refused(tiny, tmp_path):
    train(tiny.new_job(tmp_path, settings=tiny.settings(5)))
    with pytest.raises(DataError, match="other settings or other data"):
        train(tiny.new_job(tmp_path, settings=tiny.settings(6)))
    with pytest.raises(DataError, match="other settings or other data"):
        train(tiny.new_job(tmp_path, settings=tiny.settings(5), identity="other rows"))
