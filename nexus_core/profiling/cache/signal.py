"""What a teacher leaves behind for one sample: everything that stage 4 learns from, and nothing that is raw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nexus_core.errors import DataError
from nexus_core.profiling.cache.attention import AttentionSummary
from nexus_core.profiling.cache.codec import LogitCodec, Packed
from nexus_core.profiling.cache.topk import TopK

MODALITY_ARRAYS = ("mel_frames", "speaker_embedding", "patch_features")
"""The only arrays that a signal may carry beside coefficients. Activations of a block are never among them."""
_INT8 = 127


@dataclass(frozen=True, slots=True, eq=False)
class Coefficients:
    """PCA coordinates of one block: one row per output token, or one row in all if `pooled`.

    `values` (rows, k) are float16, or int8 with one scale per component. k is less than `dim`, the width of the block:
    as many coordinates as dimensions would be the activations themselves, rotated. `reason` says why not, if so.
    """

    values: NDArray[Any]  # (rows, k) float16 or int8
    dim: int
    scales: NDArray[np.float32] | None = None  # (k,)
    pooled: bool = False
    reason: str = ""

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in (np.float16, np.int8):
            raise DataError(
                f"coefficients are {self.values.dtype} {self.values.shape}, expected float16 or int8 (rows, k)",
                "build them with Coefficients.of",
            )
        k = self.values.shape[1]
        if k >= self.dim and not self.reason:
            raise DataError(
                f"{k} coefficients for a block of width {self.dim} would store its raw activations",
                "keep fewer components, or give the reason why all are needed",
            )
        if (self.values.dtype == np.int8) != (self.scales is not None and self.scales.shape == (k,)):
            raise DataError("int8 coefficients need one scale per component, float16 none", "use Coefficients.of")
        if self.pooled and len(self.values) != 1:
            raise DataError(f"pooled coefficients have {len(self.values)} rows, expected 1", "pool over the tokens")

    @classmethod
    def of(cls, array: Any, dim: int, dtype: str = "float16", pooled: bool = False, reason: str = "") -> Coefficients:
        """Store `array` (rows, k), numpy or torch, as `dtype` float16 or int8 (rounded to 1/127 of its largest)."""
        exact = np.asarray(array.detach().float().cpu() if hasattr(array, "detach") else array, np.float32)
        if exact.ndim != 2 or not np.isfinite(exact).all():
            raise DataError(
                f"coefficients {exact.shape} are not a finite matrix (rows, k)",
                "look for NaN or infinite activations in this block; load the teacher in float32",
            )
        if dtype == "int8":
            scales = np.maximum(np.abs(exact).max(0, initial=0) / _INT8, np.finfo(np.float32).tiny).astype(np.float32)
            return cls(np.rint(exact / scales).astype(np.int8), dim, scales, pooled, reason)
        if dtype != "float16":
            raise DataError(f'coefficients cannot be stored as "{dtype}"', "use float16 or int8")
        if np.abs(exact).max(initial=0) > np.finfo(np.float16).max:
            raise DataError("a coefficient is too large for float16", "store this block as int8, which has scales")
        return cls(exact.astype(np.float16), dim, None, pooled, reason)

    def array(self) -> NDArray[np.float32]:
        """(rows, k) in float32."""
        values = self.values.astype(np.float32)
        return values if self.scales is None else values * self.scales


@dataclass(frozen=True, slots=True, eq=False)
class TeacherSignal:
    """One sample as its teacher answered it.

    `token_ids` are ids of the teacher's own tokenizer and mean nothing to another; `offsets` say where each token's bytes
    lie in the UTF-8 of `output`, by which another tokenizer's tokens are aligned (a token without text, such as the
    end of the sequence, has an empty span). Row t of `logits` is the distribution that token t was drawn from.
    """

    digest: str  # of the sample
    prompt: str
    output: str
    token_ids: NDArray[np.int32]  # (T,)
    offsets: NDArray[np.int32]  # (T, 2) start and end in bytes
    logits: Packed | None = None  # T tokens
    codec: LogitCodec | None = None
    coefficients: Mapping[str, Coefficients] = field(default_factory=dict)  # by block
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)  # by a name of MODALITY_ARRAYS
    attention: Mapping[str, AttentionSummary] = field(default_factory=dict)  # by block

    def __post_init__(self) -> None:
        where, tokens = f"signal of sample {self.digest[:12]}", len(self.token_ids)
        self._check_tokens(where)
        if (self.logits is None) != (self.codec is None) or (self.logits is not None and len(self.logits) != tokens):
            raise DataError(
                f"{where}: logits must be of {tokens} tokens and come with their codec", "one row per token"
            )
        for block, rows in self.coefficients.items():
            if not rows.pooled and len(rows.values) != tokens:
                raise DataError(
                    f"{where}: block {block} has coefficients of {len(rows.values)} tokens, the output has {tokens}",
                    "pass one row per output token, or pooled=True",
                )
        self._check_attention(where)
        for name, array in self.arrays.items():
            if name not in MODALITY_ARRAYS:
                raise DataError(
                    f'{where}: an array "{name}" is not kept', f"raw activations never are; known: {MODALITY_ARRAYS}"
                )
            if array.dtype not in (np.float16, np.float32, np.int8) or not np.isfinite(array).all():
                raise DataError(
                    f"{where}: {name} is {array.dtype} or not finite", "use finite float16, float32 or int8"
                )

    def _check_tokens(self, where: str) -> None:
        size = len(self.output.encode())
        if self.token_ids.dtype != np.int32 or self.token_ids.ndim != 1:
            raise DataError(f"{where}: token ids are {self.token_ids.dtype}", "pass a one-dimensional int32 array")
        if self.offsets.dtype != np.int32 or self.offsets.shape != (len(self.token_ids), 2):
            raise DataError(
                f"{where}: offsets are {self.offsets.dtype} {self.offsets.shape} for {len(self.token_ids)} tokens",
                "pass int32 starts and ends in bytes, (tokens, 2); byte_offsets makes them",
            )
        starts, ends = self.offsets.T
        ordered = (np.diff(starts) >= 0).all() and (starts <= ends).all()
        if not ordered or starts.min(initial=0) < 0 or ends.max(initial=0) > size:
            raise DataError(
                f"{where}: offsets are out of order or outside the {size} bytes of the output",
                "offsets are in bytes of this output, not in characters and not of the prompt",
            )

    def _check_attention(self, where: str) -> None:
        size = len(self.prompt.encode()) + len(self.output.encode())
        for block, summary in self.attention.items():
            if len(summary.starts) != len(self.token_ids) or summary.ends.max(initial=0) > size:
                raise DataError(
                    f"{where}: the attention of {block} is of {len(summary.starts)} tokens, up to byte "
                    f"{summary.ends.max(initial=0)}; the output has {len(self.token_ids)}, and the text {size} bytes",
                    "pass one row per output token; places are bytes of the prompt, then of the output",
                )

    def top_k(self) -> TopK | None:
        """The distributions of the output tokens, if the teacher has any."""
        return None if self.codec is None or self.logits is None else self.codec.decode(self.logits)


def byte_offsets(text: str, spans: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Character spans, as tokenizers give them, in bytes of the UTF-8: (T, 2)."""
    widths = np.array([len(character.encode()) for character in text], np.int64)
    starts = np.concatenate([[0], widths.cumsum()])
    found = np.asarray(spans, np.int64).reshape(-1, 2)
    if found.min(initial=0) < 0 or found.max(initial=0) > len(text):
        raise DataError(f"a token's span lies outside its text of {len(text)} characters", "pass the output alone")
    return starts[found].astype(np.int32)
