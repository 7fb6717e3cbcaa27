"""A value that is computed from parameters and kept for as long as they stay what they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


class Kept(Generic[T]):
    """Computed at the first call, without a gradient and outside autocast, and again when a source has changed.

    Noticed are in-place changes (an optimiser's step, `load_state_dict`) and new storage (`.to`). Writing through
    `.data` is not: whoever does it chooses the adapter again, or calls `train` or `eval`, which drop what was kept.
    """

    def __init__(self, compute: Callable[[], T], sources: Sequence[torch.Tensor]) -> None:
        self._compute = compute
        self._sources = tuple(sources)
        self._stamp: tuple[tuple[int, int], ...] = ()
        self._value: T | None = None

    def __call__(self) -> T:
        stamp = tuple((s.data_ptr(), 0 if s.is_inference() else s._version) for s in self._sources)
        if self._value is None or stamp != self._stamp:
            device = self._sources[0].device.type
            # bf16 products must not be kept for a caller that computes in fp32.
            with torch.no_grad(), torch.autocast(device, enabled=False):
                self._value = self._compute()
            self._stamp = stamp
        return self._value
