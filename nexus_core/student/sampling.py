"""Draw the next token instead of taking the likeliest one."""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Sampler:
    """From softmax(logits / temperature), among the likeliest tokens that have the share `top_p` together.

    Each row has a generator of its own from the same seed: what is drawn for it does not depend on its neighbours.
    """

    def __init__(self, temperature: float, top_p: float, seed: int) -> None:
        self._temperature, self._top_p, self._seed = temperature, top_p, seed
        self._generators: dict[int, torch.Generator] = {}

    def __call__(self, logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
        """logits (B, V) and the row of each, to tokens (B)"""
        # On the CPU in double precision: the same draws on every device, as far as its logits are the same.
        shares, tokens = (logits.double().cpu() / self._temperature).softmax(-1).sort(descending=True, stable=True)
        reached = shares.cumsum(-1)  # (B, V)
        kept = shares.where(reached - shares < self._top_p, 0.0).cumsum(-1)  # the likeliest one is always among them
        drawn = torch.stack([self._uniform(row) for row in rows])[:, None] * kept[:, -1:]
        places = (kept <= drawn).sum(-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
        return tokens.gather(-1, places)[:, 0].to(logits.device)

    def _uniform(self, row: int) -> torch.Tensor:
        """The row's next number in [0, 1)."""
        if row not in self._generators:
            self._generators[row] = torch.Generator().manual_seed(self._seed)
        return torch.rand((), dtype=torch.float64, generator=self._generators[row])
