"""What of a student goes into a bundle's files, and the student that comes out of them again."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch

from nexus_core.bundle.manifest import BACKBONE, ROUTER, Quantisation
from nexus_core.bundle.quantise import BLOCK, pack, unpack
from nexus_core.bundle.reader import is_of_tower
from nexus_core.bundle.tensors import Tensors
from nexus_core.errors import DataError
from nexus_core.student.assemble import projections
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM

KINDS = ("fp32", "fp16", "int8", "nf4")


def adapter_file(capability: str) -> str:
    """Where one capability's adapter lies."""
    return f"adapters/{capability}_adapter.safetensors"


def encoder_file(tower: str) -> str:
    """Where a tower that hears for itself lies, with its ports."""
    return f"encoders/{tower}_encoder.safetensors"


def to_store(student: Student, kind: str) -> tuple[dict[str, Tensors], Quantisation]:
    """Tensors by file. Only the backbone's projections are packed; everything else is fp16, or fp32 where all of it is.

    The router stays in fp32: it is small, and what it decides by are thresholds.
    """
    model, dtype = student.model, torch.float32 if kind == "fp32" else torch.float16
    packed = packable(model) if kind in ("int8", "nf4") else ()
    backbone: Tensors = {}
    for name, weight in own_weights(model).items():
        backbone |= (
            pack(name, _cast(name, weight, torch.float32), kind)
            if name in packed
            else {name: _cast(name, weight, dtype)}
        )
    files = {BACKBONE: backbone}
    for capability, adapter in model.adapters.items():
        files[adapter_file(capability)] = {n: _cast(n, t, dtype) for n, t in adapter.state_dict().items()}
    state = model.state_dict()
    for tower in model.towers:
        own = {name: tensor for name, tensor in state.items() if is_of_tower(name, tower)}
        files[encoder_file(tower)] = {name: _cast(name, tensor, dtype) for name, tensor in own.items()}
    if student.router is not None:
        files[ROUTER] = dict(student.router.state_dict())
    return files, Quantisation(kind, BLOCK if kind == "nf4" else None, packed)


def own_weights(model: NexusForCausalLM) -> Tensors:
    """The backbone's weights; one that is two at once (tied embeddings) is there under its first name."""
    wanted = set(model.backbone_state())
    return {name: weight.detach() for name, weight in model.named_parameters() if name in wanted}


def packable(model: NexusForCausalLM) -> tuple[str, ...]:
    """The weights of the backbone's projections."""
    return tuple(
        f"model.layers.{index}.{name}.weight"
        for index, layer in enumerate(model.blocks)
        for name, _ in projections(layer)
    )


def _cast(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor.detach()
    cast = tensor.detach().to(dtype)
    if not torch.isfinite(cast).all():
        shown = str(dtype).removeprefix("torch.")
        raise DataError(f"{name} does not fit into {shown}", "build the bundle without --quantise, which keeps fp32")
    return cast


def as_stored(student: Student, files: Mapping[str, Tensors], how: Quantisation) -> Student:
    """A copy of the student with the weights that the files hold: what a reader must find."""
    with student.model.using(None):
        model = copy.deepcopy(student.model).float().cpu().eval()
    state = model.state_dict()
    with torch.no_grad():
        for name, weight in own_weights(model).items():
            held = files[BACKBONE]
            weight.copy_(unpack(name, held, weight.shape, how) if name in how.tensors else held[name])
        for capability, adapter in model.adapters.items():
            for name, tensor in adapter.state_dict().items():
                tensor.copy_(files[adapter_file(capability)][name])
        for tower in model.towers:
            for name, tensor in files[encoder_file(tower)].items():
                state[name].copy_(tensor)
    return Student(model, student.tokenizer, student.arch, student.router)
