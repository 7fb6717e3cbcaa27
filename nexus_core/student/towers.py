"""A tower's own half: an encoder slot, and a resampler that turns what it heard into a fixed number of thought tokens.

    queries (N, latent) attend to the encoder's features, twice, each time followed by an MLP; then a LayerNorm

The resampler is Perceiver's (Jaegle et al., 2021): its cost and the length of its output do not grow with the input.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from nexus_core.student.arch import TowerArch
from nexus_core.student.ports import CrossAttention

DEPTH = 2  # the second look is asked with what the first one found; Perceiver's gain beyond two is small


class ThoughtTower(nn.Module):
    """`encoder` is the tower's own module and must give (B, T, feature_size); nothing is encoded without one."""

    def __init__(self, arch: TowerArch, seed: int, encoder: nn.Module | None = None) -> None:
        super().__init__()
        self.arch = arch
        self.encoder = encoder if encoder is not None else nn.Identity()
        self.queries = nn.Parameter(torch.empty(arch.thought_tokens, arch.latent_size))
        looks, thinkers = [], []
        for depth in range(DEPTH):
            looks.append(
                CrossAttention(arch.latent_size, arch.feature_size, arch.port_heads, arch.port_head_dim, seed + depth)
            )
            thinkers.append(_mlp(arch.latent_size, seed + DEPTH + depth))
        self.looks = nn.ModuleList(looks)
        self.thinkers = nn.ModuleList(thinkers)
        self.norm = nn.LayerNorm(arch.latent_size)
        with torch.no_grad():
            self.queries.normal_(0.0, 1.0, generator=torch.Generator().manual_seed(seed))

    def forward(self, inputs: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """Thought tokens (B, N, latent) of what came in; `mask` (B, T) is true where a feature is real."""
        features = self.encoder(inputs)  # (B, T, f)
        thoughts = self.queries.expand(len(features), -1, -1)  # (B, N, l)
        for look, think in zip(self.looks, self.thinkers, strict=True):
            thoughts = thoughts + cast(CrossAttention, look).attend(thoughts, features, mask)
            thoughts = thoughts + think(thoughts)
        out: torch.Tensor = self.norm(thoughts)
        return out


def _mlp(size: int, seed: int) -> nn.Sequential:
    up, down = nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for linear in (up, down):
            linear.weight.normal_(0.0, linear.in_features**-0.5, generator=generator)
            linear.bias.zero_()
    return nn.Sequential(nn.LayerNorm(size), up, nn.SiLU(), down)
