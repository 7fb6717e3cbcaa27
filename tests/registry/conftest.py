"""A small registry to break in one place at a time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SMALL = """\
version: 1
defaults:
  retain_fraction: {higher: 0.97, lower: 1.03}
  rank_caps: {text: 512}
  tiers:
    1: {name: core, rank_cap: text}
  thresholds:
    points: {non_negotiable: 0.02, recoverable: 0.005}
towers:
  text: {latent_max: 64, description: language}
capabilities:
  math:
    tier: 1
    tower: text
    description: sums
    aliases: [sums]
    thresholds: points
    contract: {benchmark: pack, metric: exact, direction: higher}
  wer:
    tier: 1
    tower: text
    description: errors
    thresholds: {non_negotiable: 0.2, recoverable: 0.1}
    contract: {benchmark: pack, metric: wer, direction: lower}
teachers:
  ada:
    name: Ada  # a comment that must stay
    parameters: 1B
    category: Language model
    best_feature: sums
    tower: text
    capabilities: [math]
    path: null
"""


@pytest.fixture
def small() -> str:
    return SMALL


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(text: str | bytes = SMALL, name: str = "registry.yaml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write
