"""The backbone's projections in 8 or 4 bits. Packed with bitsandbytes; unpacked by the few lines below, which need torch.

int8   w = q * absmax / 127      one absmax for each row
nf4    w = NF4[q] * absmax       one absmax for each block of 64 numbers, row after row; two q in a byte
       NF4 are 16 quantiles of a normal distribution (Dettmers et al., 2023, QLoRA)

A test compares the unpacked weights with those of bitsandbytes, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from nexus_core.bundle.manifest import Quantisation
from nexus_core.errors import ModelError

PACKED, ABSMAX = ".packed", ".absmax"
BLOCK = 64
INT8_STEP = 7.874015718698502e-3  # 1 / 127, as bitsandbytes rounds it
# fmt: off
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)
# fmt: on
Tensors = dict[str, torch.Tensor]


def pack(name: str, weight: torch.Tensor, kind: str) -> Tensors:
    """What is stored of one weight (out, in)."""
    from bitsandbytes import functional

    weight = weight.detach().float().cpu().contiguous()
    if kind == "int8":
        packed, absmax, _ = functional.int8_vectorwise_quant(weight)
        packed[absmax == 0] = 0  # 0 divided by 0, made an integer, is whatever the processor likes
    else:
        packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
        packed, absmax = packed.view(-1), state.absmax
    return {name + PACKED: packed, name + ABSMAX: absmax.float()}


def unpack(name: str, stored: Mapping[str, torch.Tensor], shape: torch.Size, how: Quantisation) -> torch.Tensor:
    """One packed weight in fp32; `ModelError` where what is stored is not one of this shape."""
    packed, absmax = stored.get(name + PACKED), stored.get(name + ABSMAX)
    if packed is None or absmax is None:
        raise ModelError(f"the packed weight {name} is not in the backbone's file", "build the bundle again")
    wanted = _sizes(shape, how)
    found = (packed.dtype, tuple(packed.shape), absmax.dtype, tuple(absmax.shape))
    if found != wanted:
        raise ModelError(f"the packed weight {name} has another shape or kind than the student's", "build it again")
    if how.kind == "int8":
        return packed * absmax[:, None] * INT8_STEP  # in this order, which decides the rounding
    return _nf4(packed, absmax, shape, how.block_size or BLOCK)


def _sizes(shape: torch.Size, how: Quantisation) -> tuple[torch.dtype, tuple[int, ...], torch.dtype, tuple[int, ...]]:
    if how.kind == "int8":
        return torch.int8, tuple(shape), torch.float32, (shape[0],)
    count, block = shape.numel(), how.block_size or BLOCK
    return torch.uint8, (-(-count // 2),), torch.float32, (-(-count // block),)


def _nf4(packed: torch.Tensor, absmax: torch.Tensor, shape: torch.Size, block: int) -> torch.Tensor:
    table = torch.tensor(NF4)
    pairs = torch.stack([packed >> 4, packed & 15], dim=1)  # the first of two lies in the upper half
    numbers = table[pairs.view(-1)[: shape.numel()].int()]
    scales = absmax.repeat_interleave(block)[: shape.numel()]
    return (numbers * scales).view(shape)
