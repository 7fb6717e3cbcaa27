"""Where a teacher's important heads look, as a summary: one place and its mass per head and answer token, never a map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError

_NARROW = 1 << 16


@dataclass(frozen=True, slots=True, eq=False)
class AttentionSummary:
    """Of some heads of one block: the token that each attends to most when answer token t is predicted, and its mass.

    Places are bytes of the full text, the prompt's UTF-8 followed by the output's: a start below the prompt's size lies
    in the prompt. A size of 0 is a token that is text of neither, such as one of the chat template. Six bytes per head
    and token; eight where the text is longer than 64 KiB.
    """

    heads: tuple[int, ...]  # in the teacher's own numbers, the most important first
    starts: NDArray[Any]  # (T, H) uint16, or uint32 for long texts
    sizes: NDArray[np.uint16]  # (T, H)
    mass: NDArray[np.float16]  # (T, H)

    def __post_init__(self) -> None:
        shapes = {array.shape for array in (self.starts, self.sizes, self.mass)}
        if len(shapes) != 1 or self.starts.ndim != 2 or self.starts.shape[1] != len(self.heads):
            raise DataError(
                f"an attention summary of {len(self.heads)} heads has arrays {sorted(shapes)}",
                "keep one start, one size and one mass per answer token and head: (tokens, heads)",
            )
        types = [str(array.dtype) for array in (self.starts, self.sizes, self.mass)]
        if types[0] not in ("uint16", "uint32") or types[1:] != ["uint16", "float16"]:
            raise DataError(f"an attention summary is of {', '.join(types)}", "use AttentionSummary.of")
        if len(set(self.heads)) != len(self.heads) or min(self.heads, default=0) < 0:
            raise DataError(f"an attention summary names the heads {self.heads}", "name each head once, from 0 on")
        if not ((self.mass >= 0) & (self.mass <= 1)).all():  # not-a-number fails both
            raise DataError("an attention mass is not between 0 and 1", "pass the weights as the softmax gave them")

    @classmethod
    def of(cls, heads: tuple[int, ...], spans: NDArray[Any], mass: NDArray[Any]) -> AttentionSummary:
        """From byte spans (T, H, 2) of the full text and masses (T, H); rounding may lift a mass above 1."""
        starts, sizes = spans[..., 0], spans[..., 1] - spans[..., 0]
        if spans.min(initial=0) < 0 or sizes.min(initial=0) < 0 or sizes.max(initial=0) >= _NARROW:
            raise DataError("a token's span is negative, reversed or longer than 64 KiB", "pass spans in bytes")
        narrow = np.uint16 if starts.max(initial=0) < _NARROW else np.uint32
        return cls(
            heads,
            starts.astype(narrow),
            sizes.astype(np.uint16),
            np.minimum(mass, 1, dtype=np.float32).astype(np.float16),
        )

    @property
    def nbytes(self) -> int:
        return int(self.starts.nbytes + self.sizes.nbytes + self.mass.nbytes)

    @property
    def ends(self) -> NDArray[np.int64]:
        """(T, H): where each place ends, in bytes of the full text."""
        return self.starts.astype(np.int64) + self.sizes
