"""Which of a teacher's protected directions a student's bottleneck carries, in which order and how important each is.

The profile's PCA stores each direction's *variance* over the answer tokens (not singular values), so a coordinate is
whitened by dividing it by the square root of that: then 1 is one standard deviation, in every direction of every teacher.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError
from nexus_core.profiling.model import BlockProfile, CapabilityProfile
from nexus_core.profiling.pca import whiten
from nexus_core.profiling.plan import Slot
from nexus_core.student.arch import Site

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class AnchorSpace:
    """The anchored directions of one site: channel i of student block `block` carries component `components[i]`.

    `components` are places in the stored PCA of `teacher_block`. `importance` is 0 for a direction without a reserved
    channel, and for one with it the plan's loss weight as a share of the largest. `max_error` is the noise, relative
    to all variance of the block, that the metric is known to bear inside the protected space; None: not measured.
    """

    block: int
    teacher_block: str
    components: tuple[int, ...]
    variance: Floats  # (k,)
    total_variance: float
    importance: Floats  # (k,)
    max_error: float | None

    @property
    def k(self) -> int:
        return len(self.components)

    def whitened(self, coordinates: Any) -> NDArray[np.float32]:
        """Stored coordinates (n, all components) as what the bottleneck is held to: (n, k)."""
        found: NDArray[np.float32] = whiten(coordinates[:, list(self.components)], self.variance).astype(np.float32)
        return found

    def as_json(self) -> dict[str, Any]:
        """What decides the values of rows."""
        return {
            "block": self.block,
            "teacher_block": self.teacher_block,
            "components": list(self.components),
            "variance": self.variance.tolist(),
        }


def anchor_space(site: Site, block: BlockProfile, slots: Sequence[Slot]) -> AnchorSpace:
    """Reserved directions first, the costliest before the others, then the rest by variance, as far as the rank goes.

    A site with more channels than the profile has directions keeps the last ones free: nothing is known to hold them to.
    """
    if block.block != site.teacher_block:
        raise DataError(f"site of {site.teacher_block} got the profile of {block.block}", "pass that block's profile")
    place = {component: i for i, component in enumerate(block.component_indices)}
    if strangers := [slot.component for slot in slots if slot.component not in place]:
        raise DataError(
            f"{block.block}: component {strangers[0]} has a reserved channel and no stored direction",
            "the plan and the profile are not of one run: profile this teacher again",
        )
    reserved = {place[slot.component]: slot.loss_weight for slot in sorted(slots, key=lambda s: s.slot)}
    others = sorted((i for i in range(block.pca.k) if i not in reserved), key=lambda i: -block.pca.variance[i])
    chosen = tuple([*reserved, *others][: site.rank])
    largest = max(reserved.values(), default=1.0)
    return AnchorSpace(
        block=site.block,
        teacher_block=block.block,
        components=chosen,
        variance=np.asarray(block.pca.variance[list(chosen)], np.float64),
        total_variance=float(block.pca.total_variance),
        importance=np.array([reserved.get(i, 0.0) / largest for i in chosen]),
        max_error=block.tolerance,
    )


def anchor_spaces(
    sites: Iterable[Site], profile: CapabilityProfile, slots: Mapping[str, Sequence[Slot]]
) -> tuple[AnchorSpace, ...]:
    """One per site. `slots` are those of the capacity plan by teacher block: `{b.block: b.slots for b in plan.blocks}`."""
    blocks = {block.block: block for block in profile.blocks}
    found = []
    for site in sites:
        if site.teacher_block not in blocks:
            raise DataError(
                f"student block {site.block} is to be held to {site.teacher_block}, which the profile of "
                f"{profile.teacher}/{profile.capability} does not have",
                f"its blocks: {', '.join(blocks) or 'none'}; run `nexus architect` again",
            )
        found.append(anchor_space(site, blocks[site.teacher_block], slots.get(site.teacher_block, ())))
    return tuple(found)
