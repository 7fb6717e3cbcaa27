"""Run the baseline answers through the teacher once more and hand each block's activations, and the logits, to observers.

Nothing is kept here: an observer folds what it sees into a summary, and the tensors die with their batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site, hidden_of

# (site, sample indices, hidden (B, T, d), mask (B, T) of answer positions)
Observer = Callable[[Site, Sequence[int], torch.Tensor, torch.Tensor], None]
# (sample indices, logits (B, T, V), mask (B, T) of answer positions)
LogitObserver = Callable[[Sequence[int], torch.Tensor, torch.Tensor], None]


@torch.inference_mode()
def capture(
    scorer: Scorer, sites: Sequence[Site], indices: Sequence[int], observe: Observer, said: LogitObserver | None = None
) -> None:
    """One forward per batch of samples, every site observed in it, in the order of the samples' lengths."""
    for chosen in scorer.runs(indices):
        batch, mask = scorer.encode(chosen)
        handles = [site.module.register_forward_hook(_hook(site, chosen, mask, observe)) for site in sites]
        try:
            logits = scorer.teacher.forward(batch).logits
        finally:
            for handle in handles:
                handle.remove()
        if said is not None:
            said(chosen, logits, mask)
        scorer.heartbeat()


def _hook(site: Site, chosen: Sequence[int], mask: torch.Tensor, observe: Observer) -> Callable[..., None]:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        observe(site, chosen, hidden_of(output).detach(), mask)

    return hook
