"""Stage 3: the student's plan. What was taught stays as it is; what comes later gets an adapter beside it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from nexus_core.architect.architect import Architect, Request
from nexus_core.architect.presets import load_presets
from nexus_core.profiling import OUTPUT
from nexus_core.profiling.artifacts import ProfileStore

if TYPE_CHECKING:
    from nexus_core.pipeline.options import RunOptions
    from nexus_core.pipeline.selection import Pair
    from nexus_core.registry import Registry


class SelectedProfiles(ProfileStore):
    """A run's profiles, of these pairs only: others are of an earlier selection."""

    def __init__(self, root: Path, pairs: Collection[Pair]) -> None:
        super().__init__(root)
        self.pairs = frozenset((pair.teacher, pair.capability) for pair in pairs)

    def profiles(self) -> tuple[tuple[str, str], ...]:
        """(teacher, capability) of every profile that was selected."""
        return tuple(key for key in super().profiles() if key in self.pairs)


def architect_of(run: Path, registry: Registry, pairs: Collection[Pair]) -> Architect:
    """Who plans from the profiles of these pairs."""
    return Architect(SelectedProfiles(run / OUTPUT, pairs), registry, load_presets())


def request(options: RunOptions, pairs: Collection[Pair]) -> Request:
    """All capabilities of these pairs."""
    wanted = tuple(sorted({pair.capability for pair in pairs}))
    return Request(options.preset, wanted, options.backbone, options.seed)
