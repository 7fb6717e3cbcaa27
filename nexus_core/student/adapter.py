"""The anchored bottleneck: the module that carries one capability at one student block.

    z = W_down(a * LayerNorm(h) + b)        (B, T, rank)   trained to equal the teacher's whitened PCA coordinates
    h <- h + tanh(gate) * W_up(silu(z))     (B, T, d)

The bottleneck *is* the protected subspace: its width is the intrinsic dimension that profiling measured, and anchoring
compares z with the teacher's coordinates. The affine (a, b) absorbs differences of mean and scale before compressing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional


class AnchoredBottleneck(nn.Module):
    """Identity at the start (gate 0), so that inserting an untrained adapter changes no bit of the student's output."""

    def __init__(self, hidden_size: int, rank: int, seed: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden_size)  # its affine is (a, b)
        self.down = nn.Linear(hidden_size, rank)
        self.up = nn.Linear(rank, hidden_size, bias=False)
        self.gate = nn.Parameter(torch.zeros(()))
        # A generator of its own: the weights depend on the plan's seed alone, not on what was built before.
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # Unit-variance z for normalised h, which is the scale of whitened coordinates.
            self.down.weight.normal_(0.0, hidden_size**-0.5, generator=generator)
            self.down.bias.zero_()
            self.up.weight.normal_(0.0, rank**-0.5, generator=generator)

    def coordinates(self, hidden: torch.Tensor) -> torch.Tensor:
        """z, the coordinates that anchoring holds to the teacher's."""
        z: torch.Tensor = self.down(self.norm(hidden))  # (B, T, rank)
        return z

    def steer(self, hidden: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        """`hidden` moved to where the coordinates `z` point."""
        out: torch.Tensor = hidden + torch.tanh(self.gate) * self.up(functional.silu(z))  # (B, T, d)
        return out

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.steer(hidden, self.coordinates(hidden))

    def folded(self) -> FoldedBottleneck:
        """The same map in four kernels: the norm's affine folded into `down`, the gate into `up`. Without gradients."""
        with torch.no_grad():
            return FoldedBottleneck(
                down=self.down.weight * self.norm.weight,
                bias=self.down.weight @ self.norm.bias + self.down.bias,
                up=(torch.tanh(self.gate) * self.up.weight).T.contiguous(),
                eps=self.norm.eps,
            )


@dataclass(frozen=True, slots=True)
class FoldedBottleneck:
    """An `AnchoredBottleneck` at inference. A closed gate is an `up` of zeros: the input still comes out bit for bit."""

    down: torch.Tensor  # (rank, d)
    bias: torch.Tensor  # (rank)
    up: torch.Tensor  # (rank, d)
    eps: float

    def __call__(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.rows(hidden.reshape(-1, hidden.shape[-1])).view(hidden.shape)

    def rows(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (N, d)"""
        z = functional.linear(functional.layer_norm(hidden, hidden.shape[-1:], eps=self.eps), self.down, self.bias)
        return torch.addmm(hidden, functional.silu(z, inplace=True), self.up)
