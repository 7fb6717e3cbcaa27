"""Teach one adapter of the student: `train(job)`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any, NoReturn

from nexus_core.distill.checkpoints import Checkpoints, load_weights
from nexus_core.distill.job import Job, Outcome, outcome_from
from nexus_core.distill.journal import write_summary
from nexus_core.distill.loop import Loop
from nexus_core.distill.recovery import DistillFailed


def train(job: Job) -> Outcome:
    """Teach the adapter, from its latest checkpoint if there is one. The student then has the weights to keep.

    A training that has ended before is only read. DistillFailed after too many rollbacks; KeyboardInterrupt on SIGINT
    or SIGTERM, with a checkpoint written: call it again, and it goes on as if nothing had happened.
    """
    checkpoints = Checkpoints(job.checkpoints, job.digest)
    outcome = _read_finished(job, checkpoints) or _run(job, checkpoints)
    write_summary(job.journal, asdict(outcome))
    return outcome


def _read_finished(job: Job, checkpoints: Checkpoints) -> Outcome | None:
    found = checkpoints.latest()
    if found is None or not found.meta.state["outcome"]:
        return None
    parameters = dict(job.student.named_parameters())
    load_weights({name: parameters[name] for name in found.weights if name in parameters}, found.weights)
    return outcome_from(found.meta.state["outcome"])


def _run(job: Job, checkpoints: Checkpoints) -> Outcome:
    with _stopping() as stop, _prepared(job):
        loop = Loop(job, checkpoints)
        try:
            while (outcome := loop.outcome) is None:
                loop.advance()
                if stop.number is not None:
                    loop.save(may_be_best=False)
                    stop.answer()
            return outcome
        except DistillFailed as error:
            error.add_note(f"while teaching {job.capability}")
            loop.journal.event("failed", loop.place.step, reason=error.message)
            rollbacks = [asdict(rollback) for rollback in loop.place.recovery.rollbacks]
            summary = {"capability": job.capability, "reason": "failed", "error": error.message, "rollbacks": rollbacks}
            write_summary(job.journal, {**summary, "steps": loop.place.step, "measured": loop.place.measured})
            raise
        finally:
            loop.crew.close()
            loop.journal.close()


@contextmanager
def _prepared(job: Job) -> Iterator[None]:
    """The student in training with the adapter chosen; afterwards as it was before, but for its weights."""
    student = job.student
    wanted = {name: parameter.requires_grad for name, parameter in student.named_parameters()}
    training = student.training
    try:
        alone = None if job.together else job.capability
        with student.using(alone, allow_isolated=job.allow_isolated):
            student.train()
            yield
    finally:
        student.train(training)
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(wanted[name])
            parameter.grad = None


class _Stop:
    """SIGINT and SIGTERM wait until the step is made and saved; then whoever handled them before has them."""

    def __init__(self) -> None:
        self.number: int | None = None
        self.before: dict[int, Any] = {}

    def note(self, number: int, frame: FrameType | None) -> None:
        self.number = number

    def answer(self) -> NoReturn:
        """As it would have been answered without the wait; in any case the training ends here."""
        handler = self.before.get(self.number or 0)
        if callable(handler):
            handler(self.number, None)
        raise KeyboardInterrupt


@contextmanager
def _stopping() -> Iterator[_Stop]:
    """A step is never cut in its middle. Only the main thread gets signals."""
    stop = _Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    stop.before = {number: signal.signal(number, stop.note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in stop.before.items():
            signal.signal(number, handler)
