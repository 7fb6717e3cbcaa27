"""How many threads a model deserves."""

from __future__ import annotations

import os

import torch
from torch import nn

# Below this a matrix product is over before a second thread has woken, and on a busy machine the threads only wait for
# each other: a 1.4M-parameter teacher took 14 CPU-seconds on two threads for what one thread did in 1.1.
SMALL = 30_000_000


def fit_threads(model: nn.Module) -> None:
    """One thread for a small model, unless the user has said how many (OMP_NUM_THREADS)."""

    if "OMP_NUM_THREADS" not in os.environ and sum(p.numel() for p in model.parameters()) < SMALL:
        torch.set_num_threads(1)
