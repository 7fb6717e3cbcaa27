"""One profile as the files of its folder, and back. Every file says whose it is, so that one in a wrong place is noticed.

Bases and coordinates are float16. A column of coordinates that would leave float16's range is divided by a power of two,
which `scale` in the layer's meta file holds: coordinates are `coeffs * scale`, rows are `mean + coordinates @ basis`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import yaml

from nexus_core.profiling.artifacts.formats import (
    plain,
    read_json,
    read_npz,
    restore,
    write_json,
    write_lines,
    write_npz,
)
from nexus_core.profiling.artifacts.layout import (
    COMPONENTS,
    HEADS,
    MAX_OUTPUTS,
    OUTPUTS,
    ArtifactError,
    layer_file,
    profile_folder,
)
from nexus_core.profiling.model import (
    BlockProfile,
    CapabilityProfile,
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
    VerifyOutput,
)
from nexus_core.profiling.pca import PCA, Array
from nexus_core.types import Direction

Owner = tuple[str, str, str]
"""Teacher, capability, hash of the teacher's weights."""
_NOT_MEASURED = {
    "low": 0.0,
    "high": 0.0,
}  # profiles of before have no interval here, and no tolerance in a layer's meta
_BASIS = {"owner": ("U", 1), "basis": ("f2", 2), "mean": ("f4", 1)}
_COEFFS = {"owner": ("U", 1), "coeffs": ("f2", 2)}


def encode(profile: CapabilityProfile) -> dict[str, bytes]:
    """The files of a profile's folder, by name."""
    check(profile)
    head = {"teacher": profile.teacher, "capability": profile.capability, "weights_hash": profile.weights_hash}
    files: dict[str, bytes] = {}
    for block in profile.blocks:
        files |= _encode_block(block, profile, head)
    files[HEADS] = write_json({**head, "heads": list(profile.heads)})
    files[OUTPUTS] = write_lines([{**head, **plain(output)} for output in profile.verify_outputs])
    files[COMPONENTS] = write_json(
        {
            **head,
            "metric": profile.metric,
            "direction": profile.direction.value,
            "baseline_score": profile.baseline_score,
            "n": profile.n,
            "seed": profile.seed,
            "notes": list(profile.notes),
            "pilot": [_Pilot(block, drop) for block, drop in profile.pilot.items()],
            "tokenizer": dict(profile.tokenizer),
            "layers": {str(b.index): {"block": b.block, "components": list(b.components)} for b in profile.blocks},
            "perturbations": list(profile.perturbations),
            "reconstruction": list(profile.reconstruction),
        }
    )
    return files


def check(profile: CapabilityProfile) -> None:
    """Refuse a profile that does not fit together, before a byte of it is written."""
    where = profile_folder(profile.teacher, profile.capability)
    if not profile.weights_hash:
        raise ArtifactError(f"{where}: a profile without the hash of its teacher's weights", "give weights_hash")
    if len(profile.verify_outputs) > MAX_OUTPUTS:
        message = f"{where}: {len(profile.verify_outputs)} verification outputs, and at most {MAX_OUTPUTS} may be kept"
        raise ArtifactError(message, "lower profiling.verify_samples in registry.yaml")
    indices = [block.index for block in profile.blocks]
    if len(set(indices)) < len(indices):
        raise ArtifactError(f"{where}: two blocks have one index ({indices})", "use the position in Teacher.blocks")
    for block in profile.blocks:
        k, shapes = block.pca.k, (block.pca.basis.shape, block.coords.shape, block.pca.mean.shape)
        expected = ((k, block.dim), (len(block.coords), k), (block.dim,))
        if shapes != expected or len(block.component_indices) != k or block.pca.variance.shape != (k,):
            raise ArtifactError(f"{where}: block {block.block}: shapes {shapes} do not fit k={k}, dim={block.dim}")
        for name, array in (("basis", block.pca.basis), ("mean", block.pca.mean), ("coordinates", block.coords)):
            if not np.isfinite(array).all():
                raise ArtifactError(f"{where}: block {block.block}: {name} hold NaN or Inf", "profile it in float32")


def _encode_block(block: BlockProfile, profile: CapabilityProfile, head: Mapping[str, str]) -> dict[str, bytes]:
    owner = np.array(list(head.values()))
    scale = _scale(block.coords)
    meta = {
        **head,
        "block": block.block,
        "layer": block.index,
        "k": block.pca.k,
        "dim": block.dim,
        "n": len(block.coords),
        "pooling": block.pooling,
        "positions": block.positions,
        "explained_variance": list(block.explained_variance),
        "component_indices": list(block.component_indices),
        "variance": block.pca.variance.tolist(),
        "total_variance": block.pca.total_variance,
        "rows": block.pca.n,
        "scale": scale.tolist(),
        "tolerance": block.tolerance,
        "note": block.note,
        "pca_note": block.pca.note,
        "tokenizer": dict(profile.tokenizer),
    }
    basis = {"owner": owner, "basis": block.pca.basis.astype("<f2"), "mean": block.pca.mean.astype("<f4")}
    coeffs = {"owner": owner, "coeffs": (block.coords / scale).astype("<f2")}
    return {
        layer_file(block.index, "basis.npz"): write_npz(basis),
        layer_file(block.index, "coeffs.npz"): write_npz(coeffs),
        layer_file(block.index, "meta.json"): write_json(meta),
    }


def _scale(coords: Array) -> Array:
    """A power of two for each column: 1 where float16 holds it well, from 2^-4 up to 2^15."""
    largest = np.abs(coords).max(axis=0, initial=0.0)
    exponent = np.frexp(np.where(largest > 0, largest, 1.0))[1] - 1
    scale: Array = np.exp2(np.where(exponent > 14, exponent - 14, np.where(exponent < -4, exponent, 0)))
    return scale


def decode(folder: str, files: Mapping[str, bytes], seconds: float) -> CapabilityProfile:
    """The profile that `encode` was given, at float16; `folder` is for messages."""
    try:
        return _decode(folder, files, seconds)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"{folder} is damaged: {reason}", "profile this teacher again") from error


def _decode(folder: str, files: Mapping[str, bytes], seconds: float) -> CapabilityProfile:
    main = read_json(f"{folder}/{COMPONENTS}", files[COMPONENTS])
    heads = read_json(f"{folder}/{HEADS}", files[HEADS])
    lines = files[OUTPUTS].decode().split("\n")[:-1]
    if len(lines) > MAX_OUTPUTS:
        raise ArtifactError(f"{folder}/{OUTPUTS} holds {len(lines)} outputs, and at most {MAX_OUTPUTS} may be kept")
    summary = restore(_Summary, main)
    return CapabilityProfile(
        teacher=summary.teacher,
        weights_hash=summary.weights_hash,
        capability=summary.capability,
        metric=summary.metric,
        direction=Direction(summary.direction),
        baseline_score=summary.baseline_score,
        n=summary.n,
        seed=summary.seed,
        seconds=seconds,
        blocks=tuple(_decode_block(folder, files, int(layer), row) for layer, row in main["layers"].items()),
        heads=tuple(restore(HeadResult, row) for row in heads["heads"]),
        perturbations=tuple(restore(PerturbationResult, row) for row in main["perturbations"]),
        pilot={row.block: row.drop for row in (restore(_Pilot, row) for row in main["pilot"])},
        verify_outputs=tuple(restore(VerifyOutput, read_json(f"{folder}/{OUTPUTS}", line.encode())) for line in lines),
        reconstruction=tuple(restore(ReconstructionResult, {**_NOT_MEASURED, **row}) for row in main["reconstruction"]),
        tokenizer=main["tokenizer"],
        notes=tuple(main["notes"]),
    )


def _decode_block(folder: str, files: Mapping[str, bytes], layer: int, row: Mapping[str, Any]) -> BlockProfile:
    names = {what: layer_file(layer, what) for what in ("meta.json", "basis.npz", "coeffs.npz")}
    data = read_json(f"{folder}/{names['meta.json']}", files[names["meta.json"]])
    meta = restore(_Meta, {"tolerance": None, **data})
    arrays = read_npz(f"{folder}/{names['basis.npz']}", files[names["basis.npz"]], _BASIS)
    coeffs = read_npz(f"{folder}/{names['coeffs.npz']}", files[names["coeffs.npz"]], _COEFFS)["coeffs"]
    variance, scale = np.array(data["variance"], dtype=np.float64), np.array(data["scale"], dtype=np.float64)
    shapes = (arrays["basis"].shape, arrays["mean"].shape, coeffs.shape, variance.shape, scale.shape)
    if shapes != ((meta.k, meta.dim), (meta.dim,), (meta.n, meta.k), (meta.k,), (meta.k,)):
        raise ValueError(f"the shapes of layer {layer} do not fit its meta file: {shapes}")
    mean, basis = arrays["mean"].astype(np.float32), arrays["basis"].astype(np.float32)
    return BlockProfile(
        block=meta.block,
        index=layer,
        dim=meta.dim,
        pooling=meta.pooling,
        positions=meta.positions,
        pca=PCA(mean, basis, variance, meta.total_variance, meta.rows, meta.pca_note),
        component_indices=tuple(data["component_indices"]),
        coords=coeffs.astype(np.float64) * scale,
        explained_variance=tuple(data["explained_variance"]),
        components=tuple(_component(each) for each in row["components"]),
        note=meta.note,
        tolerance=None if meta.tolerance is None else float(meta.tolerance),
    )


def _component(data: Mapping[str, Any]) -> ComponentResult:
    found = restore(ComponentResult, data)
    return replace(found, cls=ComponentClass(found.cls))


@dataclass(frozen=True, slots=True)
class _Summary:
    """The plain fields of components.json."""

    teacher: str
    capability: str
    weights_hash: str
    metric: str
    direction: str
    baseline_score: float
    n: int
    seed: int


@dataclass(frozen=True, slots=True)
class _Meta:
    """The plain fields of layer_<L>_meta.json; `n` counts the samples, `rows` what the PCA was made of."""

    block: str
    k: int
    dim: int
    n: int
    pooling: str
    positions: str
    total_variance: float
    rows: int
    tolerance: float | None
    note: str
    pca_note: str


@dataclass(frozen=True, slots=True)
class _Pilot:
    """A row of the pilot ablation."""

    block: str
    drop: float


def owner_in(name: str, content: bytes) -> Owner | None:
    """Whose file this says it is; None when it names nobody (an empty list of outputs)."""
    if name.endswith(".npz"):
        teacher, capability, weights = read_npz(name, content, _BASIS if "_basis" in name else _COEFFS)["owner"]
        return str(teacher), str(capability), str(weights)
    if name.endswith(".jsonl"):
        content = content.split(b"\n", 1)[0]
        if not content:
            return None
    data: Any = yaml.safe_load(content) if name.endswith(".yaml") else read_json(name, content)
    return data["teacher"], data["capability"], data["weights_hash"]
