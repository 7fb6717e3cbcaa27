"""Gated ports: cross attention from the backbone's positions to the thought tokens that a tower offers.

    h <- h + tanh(gate) * O(softmax(Q(norm h) K(t)^T / sqrt(head_dim)) V(t))        gate = 0 at the start

The gate is Flamingo's (Alayrac et al., 2022): a closed port changes no bit, whatever the tower says.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


class CrossAttention(nn.Module):
    """From `hidden` (B, T, d) to `source` (B, N, s); padded positions of the source are never attended to."""

    def __init__(self, hidden: int, source: int, heads: int, head_dim: int, seed: int) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.norm = nn.LayerNorm(hidden)
        self.q_proj = nn.Linear(hidden, heads * head_dim, bias=False)
        self.k_proj = nn.Linear(source, heads * head_dim, bias=False)
        self.v_proj = nn.Linear(source, heads * head_dim, bias=False)
        self.o_proj = nn.Linear(heads * head_dim, hidden, bias=False)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for linear in (self.q_proj, self.k_proj, self.v_proj, self.o_proj):
                linear.weight.normal_(0.0, linear.in_features**-0.5, generator=generator)

    def attend(self, hidden: torch.Tensor, source: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """`mask` (B, N) is true where the source is real. A row without any real source gets zeros, as torch has it."""
        q, k, v = (self._heads(p) for p in (self.q_proj(self.norm(hidden)), self.k_proj(source), self.v_proj(source)))
        real = None if mask is None else mask.bool()[:, None, None]  # (B, 1, 1, N)
        out = functional.scaled_dot_product_attention(q, k, v, attn_mask=real)  # (B, H, T, e)
        result: torch.Tensor = self.o_proj(out.transpose(1, 2).flatten(2))  # (B, T, d)
        return result

    def _heads(self, projected: torch.Tensor) -> torch.Tensor:
        return projected.view(*projected.shape[:2], -1, self.head_dim).transpose(1, 2)  # (B, H, T, e)


class NexusCrossAttention(CrossAttention):
    """A port of the backbone: `CrossAttention` behind a tanh gate that starts closed."""

    def __init__(self, hidden: int, latent: int, heads: int, head_dim: int, seed: int) -> None:
        super().__init__(hidden, latent, heads, head_dim, seed)
        self.gate = nn.Parameter(torch.zeros(()))

    def forward(self, hidden: torch.Tensor, thoughts: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        return hidden + torch.tanh(self.gate) * self.attend(hidden, thoughts, mask)
