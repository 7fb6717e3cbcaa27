"""How many threads a model deserves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# What a small model computes is over before a second thread has woken, and on a busy machine the threads only wait for
# each other: 64 answers of a 1.4M-parameter teacher took 14 CPU-seconds on two threads and 1.1 on one; a whole profile
# beside another job took 405 on two and 65 on one.
SMALL = 30_000_000


@contextmanager
def fitted_threads(parameters: int) -> Iterator[None]:
    """One thread inside the block for a small model, unless the user has said how many (OMP_NUM_THREADS)."""
    before = torch.get_num_threads()
    if parameters >= SMALL or "OMP_NUM_THREADS" in os.environ or before == 1:
        yield
        return
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
