"""How many threads a decoding step deserves."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

# A step of a small model is over before a second thread has woken, and on a busy machine the threads only wait for each
# other: 64 answers of a 1.4M-parameter teacher took 14 CPU-seconds on two threads, and 1.1 on one. A forward over
# whole texts is large enough for all threads, so only generation is held to one.
SMALL = 30_000_000


@contextmanager
def generation_threads(parameters: int) -> Iterator[None]:
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
