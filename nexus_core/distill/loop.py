"""The loop over steps of one adapter's training: it watches its own health, stops on retention, can be killed anywhere.

Steps and positions (of batches) only grow. A rollback brings back weights, optimizer and generators of the best checkpoint
and goes on with the next batch; the steps that it undoes are made up for, so trouble costs time and not teaching.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import psutil
import torch

from nexus_core.distill.anchoring import over_limit
from nexus_core.distill.batches import Batch
from nexus_core.distill.checkpoints import (
    Checkpoint,
    Checkpoints,
    Meta,
    load_optimizer,
    load_rng,
    load_weights,
    optimizer_tensors,
    rng_tensors,
)
from nexus_core.distill.crew import Crew
from nexus_core.distill.job import Job, Outcome, Place, outcome_from, place_from
from nexus_core.distill.joint import JointBatches, turns_by_need
from nexus_core.distill.journal import Journal
from nexus_core.distill.objective import Moment, Terms, autocast
from nexus_core.distill.optim import build_optimizer, gradient_norm, rate_share, select_trained, set_rate
from nexus_core.distill.recovery import (
    Trouble,
    Watched,
    accept,
    anchor_factor,
    check,
    check_due,
    go_back,
    judge,
    judge_gradient,
)
from nexus_core.distill.retention import Measured, Validation, evaluation_due
from nexus_core.distill.settings import PhaseSettings

MEGABYTE = 1 << 20


class Loop:
    """One training in progress. The student has the adapter chosen."""

    def __init__(self, job: Job, checkpoints: Checkpoints) -> None:
        self.job = job
        self.settings = job.settings
        self.checkpoints = checkpoints
        found = self.checkpoints.latest()
        self.place = Place() if found is None else place_from(found.meta.state)
        self._process = psutil.Process()
        self._clock = time.perf_counter()
        self.crew = Crew(job.student, (), 1)
        self._enter_phase()
        if found is not None:
            self._restore(found)
        if isinstance(job.batches, JointBatches):
            job.batches.plan = self.place.turns or job.batches.plan
        self.journal = Journal(job.journal, None if found is None else found.meta.journal)
        self._report_damage()
        if found is None:
            self.save()

    @property
    def phase(self) -> PhaseSettings:
        """The phase in force."""
        return self.settings.phases[self.place.phase]

    @property
    def _phase_step(self) -> int:
        return self.place.counted - self.place.phase_start

    @property
    def outcome(self) -> Outcome | None:
        """How it ended, once it has."""
        return None if self.place.outcome is None else outcome_from(self.place.outcome)

    def advance(self) -> None:
        """One step, and whatever is due after it."""
        place = self.place
        if self._phase_step >= self.phase.steps:
            return self._end_phase("ceiling")
        trouble = self._step()
        discarded = place.position
        place.position += self.settings.accumulate
        if trouble is None and check_due(place.recovery, place.step, self.settings.recovery) and self.job.held:
            trouble = self._check()
        if trouble is not None:
            return self._go_back(trouble, discarded)
        return self._after_step()

    # --- one step -----------------------------------------------------------------------------------------------

    def _step(self) -> Trouble | None:
        started = time.perf_counter()
        batches = [self.job.batches.at(self.place.position + i) for i in range(self.settings.accumulate)]
        tokens = sum(batch.tokens for batch in batches)
        recovery, settings = self.place.recovery, self.settings.recovery
        moment = Moment(self.place.counted, anchor_factor(recovery, settings), sum(b.positions for b in batches))

        def work(student: Any, i: int) -> Terms:
            with autocast(self.job.device, self.settings.precision):
                return self.job.objective(student, batches[i].to(self.job.device), moment)

        terms = self.crew.gradients(work, len(batches))
        norm = gradient_norm(self.trained.all.values(), self.phase.clip)
        seen = read_numbers(terms, norm, batches)
        watched = Watched(seen["watched"], anchor_errors(seen, batches))
        trouble = judge(recovery, watched, settings) or judge_gradient(seen["gradient_norm"])
        if trouble is None:
            share = rate_share(self._phase_step, self.phase, self.settings.optimizer.final_rate)
            set_rate(self.optimizer, share * recovery.rate_scale, adapters_only=bool(recovery.repair_left))
            self.optimizer.step()
            self.place.recovery = accept(recovery, watched, settings)
            self.place.step += 1
            self.place.tokens += tokens
            self._log(seen, moment, tokens / (time.perf_counter() - started))
        self.optimizer.zero_grad(set_to_none=True)
        return trouble

    def _log(self, seen: dict[str, float], moment: Moment, speed: float) -> None:
        if self.place.step % self.settings.journal.log_every:
            return
        values = {
            **seen,
            "rate": self.optimizer.param_groups[0]["lr"],
            "anchor_boost": moment.boost,
            "memory_mb": self._process.memory_info().rss / MEGABYTE,
            "tokens_per_second": speed,
            "position": float(self.place.position),
        }
        if torch.device(self.job.device).type == "cuda":
            values["gpu_memory_mb"] = torch.cuda.max_memory_allocated(self.job.device) / MEGABYTE
        self.journal.step(self.place.step, values)

    # --- after a step -------------------------------------------------------------------------------------------

    def _after_step(self) -> None:
        place, settings = self.place, self.settings
        validation = self.job.validation
        if validation and evaluation_due(self._phase_step, self.phase.steps, settings.retention):
            self._share_turns(self._evaluate(validation))
            if place.progress.met:
                return self._end_phase("contract met")
            if place.progress.since >= settings.retention.patience:
                return self._end_phase("stalled")
            return self.save()
        if place.step % settings.journal.checkpoint_every == 0 or place.step == settings.recovery.settle:
            self.save()
        return None

    def _check(self) -> Trouble | None:
        """The hard check: the anchored coordinates on held-out inputs, against the best that was measured there."""
        self.job.student.eval()
        with torch.no_grad(), autocast(self.job.device, self.settings.precision):
            moment = Moment(self.place.counted)
            terms = [self.job.objective(self.job.student, b.to(self.job.device), moment) for b in self.job.held]
        self.job.student.train()
        seen = read_numbers(terms, torch.zeros(()), self.job.held)
        if "anchor_distance" not in seen:
            return None
        errors = {space.block: seen.get(f"anchor_error/{space.block}", 0.0) for space in self.job.spaces}
        limited = bool(errors) and all(space.max_error is not None for space in self.job.spaces)
        harmless = limited and not over_limit(errors, self.job.spaces)
        self.place.recovery, trouble = check(
            self.place.recovery, seen["anchor_distance"], self.settings.recovery, harmless
        )
        repairing = bool(self.place.recovery.repair_left)
        self.journal.event(
            "check", self.place.step, error=seen["anchor_distance"], harmless=harmless, repairing=repairing
        )
        return trouble

    def _evaluate(self, validation: Validation) -> Measured:
        place = self.place
        measured = self._measure(validation)
        better = place.progress.best is None or validation.better(measured.score, place.progress.best)
        place.progress = place.progress.after(place.step, measured, better)
        return measured

    def _share_turns(self, measured: Measured) -> None:
        """Of several capabilities, those that lack more have more of the batches that follow."""
        if isinstance(self.job.batches, JointBatches):
            reached = {name: part["reached"] for name, part in measured.parts.items()}
            self.job.batches.turn(self.place.position, turns_by_need(reached, self.settings.data.turns_most))
            self.place.turns = self.job.batches.plan

    def _measure(self, validation: Validation, full: bool = False) -> Measured:
        started = time.perf_counter()
        self.job.student.eval()
        with torch.no_grad():
            measured = validation.measure(self.settings.retention, full)
        self.job.student.train()
        self.place.evaluation_seconds += time.perf_counter() - started
        self.place.measured = asdict(measured)
        self.journal.event("evaluation", self.place.step, **asdict(measured))
        told = f"score {measured.score:.3f} of {measured.teacher:.3f} (n {measured.n})"
        self.job.say(f"{self.job.capability}: step {self.place.step}, {told}")
        return measured

    # --- going back, and going on -------------------------------------------------------------------------------

    def _go_back(self, trouble: Trouble, discarded: int) -> None:
        place = self.place
        best = self.checkpoints.best(place.phase)
        self._report_damage()
        rollback = trouble.at(place.step, discarded)
        self.journal.event(
            "rollback", place.step, cause=trouble.cause, detail=trouble.detail, position=discarded, to=best.meta.step
        )
        self.job.say(f"{self.job.capability}: {trouble.cause} at step {place.step}, back to {best.meta.step}")
        then = place_from(best.meta.state)
        place.recovery = go_back(place.recovery, rollback, then.recovery, self.settings.recovery)
        place.lost = place.step - then.counted
        place.progress = replace(place.progress, score=then.progress.score)
        self._restore(best)

    def _restore(self, checkpoint: Checkpoint) -> None:
        load_weights(self.trained.all, checkpoint.weights)
        load_optimizer(self.optimizer, checkpoint.optimizer)
        load_rng(checkpoint.rng)

    def _report_damage(self) -> None:
        for reason in self.checkpoints.damaged:
            self.journal.event("damaged", self.place.step, reason=reason)
            self.job.say(reason)
        self.checkpoints.damaged.clear()

    def save(self, may_be_best: bool = True) -> None:
        """A checkpoint of this moment, the best one if it is. Not that of an interrupt: where one comes must decide nothing;
        nor one under repair: it is what one may have to go back from."""
        place = self.place
        key = self._key()
        sound = may_be_best and place.recovery.repair_left is None
        best = sound and (place.best_key is None or key > place.best_key)
        if best:
            place.best_key = key
        now = time.perf_counter()
        place.seconds, self._clock = place.seconds + now - self._clock, now
        marks = self.journal.marks()
        meta = Meta(self.job.digest, place.step, place.position, place.phase, place.as_json(), marks)
        state = optimizer_tensors(self.optimizer)
        self.checkpoints.save(Checkpoint(meta, self.trained.all, state, rng_tensors()), best)

    def _key(self) -> tuple[float, ...]:
        """Larger is better: by validation score once there is one (the last one holds until the next), then by loss."""
        averages, score, validation = self.place.recovery.averages, self.place.progress.score, self.job.validation
        if averages.seen == 0:
            return (-1.0, 0.0, 0.0)
        if score is None or validation is None:
            return (0.0, 0.0, -averages.loss)
        return (1.0, validation.gain(score), -averages.loss)

    # --- phases -------------------------------------------------------------------------------------------------

    def _enter_phase(self) -> None:
        self.trained = select_trained(self.job.student, self.job.taught, self.phase)
        self.optimizer = build_optimizer(self.trained, self.phase, self.settings.optimizer)
        self.crew.close()
        self.crew = Crew(self.job.student, list(self.trained.all.values()), self.job.workers)

    def _end_phase(self, reason: str) -> None:
        """On to the next phase from the best weights of this one, or to the end of training."""
        if self.job.validation is not None and reason != "contract met":
            self._keep_better(self.job.validation)
        place = self.place
        later = [i for i, p in enumerate(self.settings.phases) if i > place.phase and p.steps]
        if reason == "contract met" or not later:
            self._finish(reason)
        else:
            place.phase, place.phase_start = later[0], place.counted
            place.progress = replace(place.progress, since=0)
            place.best_key = None  # weights of another phase are of other parameters: there is no way back to them
            self._enter_phase()
            self.journal.event("phase", place.step, name=self.phase.name)
        self.save()

    def _keep_better(self, validation: Validation) -> None:
        """Of the weights as they are and those of the best checkpoint, the ones that answer better, on all answers."""
        best = self.checkpoints.best(self.place.phase)
        now = self._measure(validation, full=True)
        if best.meta.step == self.place.step:
            return
        own = {name: parameter.detach().clone() for name, parameter in self.trained.all.items()}
        load_weights(self.trained.all, best.weights)
        known = place_from(best.meta.state)
        if known.progress.step == best.meta.step and known.measured and known.measured["full"]:
            self.place.measured = known.measured  # of these very weights
        else:
            self._measure(validation, full=True)
        then = self.place.measured or {}
        if not validation.better(then["score"], now.score):  # of equals the later ones: they were taught for longer
            load_weights(self.trained.all, own)
            self.place.measured = asdict(now)

    def _finish(self, reason: str) -> None:
        place = self.place
        seconds = place.seconds + time.perf_counter() - self._clock
        outcome = Outcome(
            capability=self.job.capability,
            reason=reason,
            steps=place.step,
            lost=place.lost,
            positions=place.position,
            tokens=place.tokens,
            seconds=round(seconds, 3),
            evaluation_seconds=round(place.evaluation_seconds, 3),
            rollbacks=tuple(asdict(rollback) for rollback in place.recovery.rollbacks),
            measured=place.measured,
        )
        place.outcome = asdict(outcome)
        self.journal.event("end", place.step, reason=reason)


def anchor_errors(seen: Mapping[str, float], batches: Sequence[Batch]) -> dict[str, float]:
    """What a step says of drift, by capability."""
    grown = {batch.capability for batch in batches if not batch.growing}
    return {name: seen[_distance(name)] for name in sorted(grown) if _distance(name) in seen}


def _distance(capability: str) -> str:
    return f"anchor_distance/{capability}" if capability else "anchor_distance"


def read_numbers(terms: Sequence[Terms], norm: torch.Tensor, batches: Sequence[Batch]) -> dict[str, float]:
    """All numbers of a step in one transfer. Parts are shares of the step's loss and add up; errors are averaged."""
    sums: dict[str, list[torch.Tensor]] = {}
    means: dict[str, list[torch.Tensor]] = {}
    for term, batch in zip(terms, batches, strict=True):
        for name, value in {"loss": term.total.detach(), "watched": term.watched.detach(), **term.parts}.items():
            sums.setdefault(name, []).append(value)
        for name, value in {**term.means, **{f"anchor_error/{block}": e for block, e in term.errors.items()}}.items():
            means.setdefault(name, []).append(value)
        if term.anchor is not None:
            for name in dict.fromkeys(["anchor_distance", _distance(batch.capability)]):
                means.setdefault(name, []).append(term.anchor)
    found = {name: torch.stack(values).sum() for name, values in sums.items()}
    found |= {name: torch.stack(values).mean() for name, values in means.items()}
    found["gradient_norm"] = norm
    return dict(zip(found, torch.stack([value.float() for value in found.values()]).tolist(), strict=True))
