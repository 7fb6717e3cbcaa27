"""Packed weights: what our few lines unpack is, bit for bit, what bitsandbytes unpacks."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from nexus_core.bundle.manifest import Quantisation
from nexus_core.bundle.quantise import ABSMAX, BLOCK, NF4, PACKED, pack, unpack
from nexus_core.bundle.reader import open_bundle
from nexus_core.bundle.stored import to_store
from nexus_core.errors import DataError, ModelError

functional = pytest.importorskip("bitsandbytes.functional")
SHAPES = [(128, 384), (33, 65), (7, 9), (1, 1), (3, 64)]  # whole blocks, a part of one, an odd number, one number
HOW = {"int8": Quantisation("int8"), "nf4": Quantisation("nf4", BLOCK)}


def drawn(shape: tuple[int, int]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=generator) * 0.05


@pytest.mark.parametrize("shape", SHAPES)
def test_nf4_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    weight = drawn(shape)
    packed, state = functional.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4", compress_statistics=False)
    assert torch.equal(torch.tensor(NF4), state.code)
    theirs = functional.dequantize_4bit(packed, state)
    stored = pack("w", weight, "nf4")
    assert torch.equal(stored["w" + PACKED], packed.view(-1))
    ours = unpack("w", stored, weight.shape, HOW["nf4"])
    assert ours.dtype is theirs.dtype is torch.float32 and torch.equal(ours, theirs)
    assert 0 < (ours - weight).abs().max() <= 0.16 * weight.abs().max() or shape == (1, 1)


@pytest.mark.parametrize("shape", SHAPES)
def test_int8_is_that_of_bitsandbytes(shape: tuple[int, int]) -> None:
    weight = drawn(shape)
    stored = pack("w", weight, "int8")
    theirs = functional.int8_vectorwise_dequant(stored["w" + PACKED], stored["w" + ABSMAX])
    ours = unpack("w", stored, weight.shape, HOW["int8"])
    assert ours.dtype is torch.float32 and torch.equal(ours, theirs)
    assert (ours - weight).abs().max() <= 0.51 / 127 * weight.abs().max()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_rows_of_zeros_stay_zeros(kind: str) -> None:
    weight = drawn((4, 128))
    weight[1] = 0
    out = unpack("w", pack("w", weight, kind), weight.shape, HOW[kind])
    assert torch.equal(out[1], torch.zeros(128)) and out[0].any()


@pytest.mark.parametrize("kind", ["int8", "nf4"])
def test_what_is_not_of_this_shape_is_refused(kind: str) -> None:
    stored = pack("w", drawn((4, 128)), kind)
    with pytest.raises(ModelError, match="the packed weight w has another shape"):
        unpack("w", stored, torch.Size((4, 130)), HOW[kind])
    with pytest.raises(ModelError, match="the packed weight w is not in"):
        unpack("w", {"w" + PACKED: stored["w" + PACKED]}, torch.Size((4, 128)), HOW[kind])


def test_nf4_takes_at_most_0_35_of_the_fp16_bytes(tiny: ModuleType) -> None:
    own = tiny.student()
    backbone, how = to_store(own, "nf4")[0]["backbone/backbone.safetensors"], to_store(own, "nf4")[1]
    packed = sum(backbone[name + end].nbytes for name in how.tensors for end in (PACKED, ABSMAX))
    plain = sum(2 * own.model.state_dict()[name].numel() for name in how.tensors)
    assert len(how.tensors) == 14 and packed / plain <= 0.35


@pytest.mark.parametrize("kind", ["fp16", "int8", "nf4"])
def test_only_projections_are_packed_and_the_rest_is_fp16(tiny: ModuleType, tmp_path: Path, kind: str) -> None:
    own = tiny.student()
    read = open_bundle(tiny.make(tmp_path / "bundle", own, quantisation=kind)).student()
    packed = set() if kind == "fp16" else set(to_store(own, kind)[1].tensors)
    state, found = own.model.state_dict(), read.model.state_dict()
    assert set(state) == set(found)
    for name, tensor in state.items():
        if name in packed:
            again = unpack(name, pack(name, tensor, kind), tensor.shape, HOW[kind])
            assert torch.equal(found[name], again) and not torch.equal(found[name], tensor)
        else:
            assert torch.equal(found[name], tensor.half().float()), name


def test_a_weight_that_overflows_fp16_is_refused_by_name(tiny: ModuleType, tmp_path: Path) -> None:
    own = tiny.student()
    with torch.no_grad():
        own.model.model.norm.weight[3] = 1e6
    with pytest.raises(DataError, match=r"model\.norm\.weight does not fit into float16"):
        tiny.make(tmp_path / "bundle", own, quantisation="fp16")
    tiny.make(tmp_path / "whole", own)
