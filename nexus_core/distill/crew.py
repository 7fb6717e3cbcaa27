"""Gradients of the batches of one step, on several threads.

The operations of a small model are too short to be shared by threads (a second one inside them gains nothing), but two
batches on two threads take little more than half the time of one after the other. Each thread has a twin of the student:
the same parameters, and its own choice of an adapter. Gradients are summed in the order of the batches, so the number of
threads changes no bit.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import Any

import torch
from torch import nn

from nexus_core.distill.objective import Terms

Work = Callable[[Any, int], Terms]
Gradients = tuple[torch.Tensor | None, ...]


class Crew:
    """`workers` students with one set of parameters."""

    def __init__(self, student: nn.Module, parameters: Sequence[nn.Parameter], workers: int) -> None:
        self._parameters = list(parameters)
        self._students = [student, *(twin(student) for _ in range(workers - 1))]
        self._pool = ThreadPoolExecutor(workers) if workers > 1 else None

    def gradients(self, work: Work, count: int) -> list[Terms]:
        """`work(student, i)` for each i below `count`; the sum of the gradients of their totals is left in `.grad`.

        What a worker raises is raised here, when all of them have stopped.
        """
        terms: list[Terms] = []
        waiting: dict[int, tuple[Terms, Gradients]] = {}
        turns, lock = iter(range(count)), threading.Lock()

        def serve(student: nn.Module) -> None:
            while True:
                with lock:
                    i = next(turns, None)
                if i is None:
                    return
                found = self._one(work(student, i))
                with lock:
                    waiting[i] = found
                    while len(terms) in waiting:  # what has been added is not held any longer
                        done, gradients = waiting.pop(len(terms))
                        self._add(gradients)
                        terms.append(done)

        if self._pool is None:
            serve(self._students[0])
            return terms
        served = [self._pool.submit(serve, student) for student in self._students]
        wait(served, return_when=FIRST_EXCEPTION)
        with lock:
            for _ in turns:  # after an exception nobody begins another batch
                pass
        wait(served)
        for future in served:
            future.result()
        return terms

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()

    def _one(self, terms: Terms) -> tuple[Terms, Gradients]:
        return terms, torch.autograd.grad(terms.total, self._parameters, allow_unused=True)

    def _add(self, gradients: Gradients) -> None:
        for parameter, gradient in zip(self._parameters, gradients, strict=True):
            if gradient is None:
                continue
            if parameter.grad is None:
                # Memory of its own, in the parameter's layout: autograd may hand out one tensor for two parameters.
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            else:
                parameter.grad.add_(gradient)


def twin(student: nn.Module) -> nn.Module:
    """The same parameters and buffers in modules of their own, which can have another adapter chosen."""
    shared = [*student.parameters(), *student.buffers()]
    return copy.deepcopy(student, {id(tensor): tensor for tensor in shared})
