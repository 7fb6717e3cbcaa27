"""Which features of a sparse autoencoder fire on a block's output, and which still do when only a part of it is left.

A check on what was found, never a step of it: a feature that people have named and that survives in the protected subspace
says what that subspace is about. The encoder is that of Gemma Scope (Lieberum et al. 2024, after Rajamanoharan et al. 2024):
f(x) = z * [z > threshold] with z = relu(x W_enc + b_enc), and x ~ f(x) W_dec + b_dec; without a threshold a plain ReLU.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nexus_core.errors import ModelError
from nexus_core.hf import read_config
from nexus_core.profiling.capture import capture
from nexus_core.profiling.pca import PCA, Array
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site

if TYPE_CHECKING:
    import torch

WEIGHTS = "params.safetensors"
KEYS = ("w_enc", "b_enc", "w_dec", "b_dec")
THRESHOLDED = {"jump_relu": True, "jumprelu": True, "relu": False, "standard": False}
VALUES = 1 << 24  # activations of features held at a time: 64 MB in float32, however many features there are
BLOCK_OUTPUT = re.compile(r"(?:.*\.)?(\d+)\.output")  # `model.layers.12.output`, as Gemma Scope's config.json says it


@dataclass(frozen=True, slots=True, eq=False)
class SAE:
    """One layer's autoencoder: d in, m features."""

    path: Path
    w_enc: torch.Tensor  # (d, m)
    b_enc: torch.Tensor  # (m,)
    w_dec: torch.Tensor  # (m, d)
    b_dec: torch.Tensor  # (d,)
    threshold: torch.Tensor | None  # (m,)
    config: Mapping[str, Any]

    @property
    def dim(self) -> int:
        return int(self.w_enc.shape[0])

    @property
    def features(self) -> int:
        return int(self.w_enc.shape[1])

    def encode(self, rows: torch.Tensor) -> torch.Tensor:
        """What each feature says to each row: (n, d) -> (n, m); 0 is silence."""
        read = rows - self.b_dec if self.config.get("apply_b_dec_to_input") else rows
        said = (read @ self.w_enc + self.b_enc).relu()
        return said if self.threshold is None else said * (said > self.threshold)

    def decode(self, said: torch.Tensor) -> torch.Tensor:
        """The rows that features describe: (n, m) -> (n, d)."""
        rows: torch.Tensor = said @ self.w_dec + self.b_dec
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class Firing:
    """How often each feature fired, over `positions`: on the first activations, on the second, and on both at once."""

    positions: int
    before: Array  # (m,)
    after: Array  # (m,)
    both: Array  # (m,)
    explained: float  # share of the first activations' variance that the autoencoder reconstructs

    @property
    def share_kept(self) -> float | None:
        """Of all that fired before, the share that fires at the same place after; None when nothing fired."""
        fired = int(self.before.sum())
        return int(self.both.sum()) / fired if fired else None

    def most_lost(self, count: int) -> list[int]:
        """The features that fell silent most often, among those that fired at all."""
        lost = self.before - self.both
        fired = np.flatnonzero(self.before)
        return [int(i) for i in fired[np.lexsort((fired, -lost[fired]))][:count]]


class Comparison:
    """Counts over a stream of pairs of activations: a block's and what is left of it, or a teacher's and a student's."""

    def __init__(self, sae: SAE) -> None:
        self.sae = sae
        self.positions = 0
        self.before, self.after, self.both = (np.zeros(sae.features, dtype=np.int64) for _ in range(3))
        self.sum: Array = np.zeros(sae.dim)
        self.squares = self.errors = 0.0

    def add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        """Take (n, d) rows and their counterparts; nothing of them is kept."""
        if before.shape != after.shape or before.ndim != 2 or before.shape[1] != self.sae.dim:
            shapes = f"{tuple(before.shape)} and {tuple(after.shape)}"
            raise ModelError(f"{self.sae.path}: activations of shape {shapes}, not (n, {self.sae.dim})", "same width")
        step = max(1, VALUES // self.sae.features)
        for start in range(0, len(before), step):
            self._add(before[start : start + step].to(self.sae.w_enc), after[start : start + step].to(self.sae.w_enc))

    def _add(self, before: torch.Tensor, after: torch.Tensor) -> None:
        said = self.sae.encode(before)
        error = (before - self.sae.decode(said)).double()
        first, second = said > 0, self.sae.encode(after) > 0
        self.positions += len(before)
        self.before += first.sum(0).cpu().numpy()
        self.after += second.sum(0).cpu().numpy()
        self.both += (first & second).sum(0).cpu().numpy()
        rows = before.double()
        self.sum += rows.sum(0).cpu().numpy()
        self.squares += float((rows**2).sum())
        self.errors += float((error**2).sum())

    def result(self) -> Firing:
        variance = self.squares - float((self.sum**2).sum()) / max(1, self.positions)
        explained = 1 - self.errors / variance if variance > 0 else float("nan")
        return Firing(self.positions, self.before, self.after, self.both, explained)


def features_kept(
    scorer: Scorer, site: Site, sae: SAE, protected: PCA, indices: Sequence[int]
) -> tuple[Firing, Firing]:
    """Firing on the block's output against `mean + projection` on the protected subspace, at answer positions.

    The second is the control: the same with a random subspace of the same size, which tells what chance keeps.
    """
    import torch

    mean = torch.from_numpy(protected.mean.astype(np.float32)).to(sae.w_enc)
    chance = np.linalg.qr(np.random.default_rng(42).standard_normal((protected.dim, protected.k)))[0].T
    bases = [torch.from_numpy(basis.astype(np.float32)).to(sae.w_enc) for basis in (protected.basis, chance)]
    comparisons = [Comparison(sae) for _ in bases]

    def observe(site: Site, chosen: Sequence[int], hidden: torch.Tensor, mask: torch.Tensor) -> None:
        rows = hidden[mask].to(sae.w_enc)
        for basis, comparison in zip(bases, comparisons, strict=True):
            comparison.add(rows, mean + (rows - mean) @ basis.T @ basis)

    capture(scorer, [site], indices, observe)
    kept, control = (comparison.result() for comparison in comparisons)
    return kept, control


# --- files ------------------------------------------------------------------------------------------------------


def load_sae(directory: Path, device: Any = "cpu") -> SAE:
    """The autoencoder of one layer's folder: `params.safetensors` and `config.json`, checked before use."""
    config = read_config(directory)
    if config is None:
        raise ModelError(f"{directory}: no config.json", f"give the folder of one layer: config.json and {WEIGHTS}")
    path = directory / WEIGHTS
    if not path.is_file():
        others = sorted(p.name for p in directory.iterdir() if p.suffix in {".npz", ".pt", ".pth", ".bin", ".pkl"})
        found = f" (only {', '.join(others)}, which is not read)" if others else ""
        raise ModelError(f"{directory}: no {WEIGHTS}{found}", "only safetensors are read: convert it, or give another")
    tensors = _tensors(path, device)
    _check_config(directory / "config.json", config, tensors)
    parts = {key: tensors[key].float() for key in KEYS}
    threshold = tensors["threshold"].float() if "threshold" in tensors else None
    return SAE(directory, **parts, threshold=threshold, config=config)


def _tensors(path: Path, device: Any) -> dict[str, torch.Tensor]:
    """By lower-case name; shapes are checked from the header, before any tensor is read."""
    from safetensors import SafetensorError, safe_open

    again = f"download {path.name} again"
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            names = {name.lower(): name for name in sorted(file.keys()) if name.lower() in (*KEYS, "threshold")}
            if missing := [key for key in KEYS if key not in names]:
                raise ModelError(
                    f"{path}: no tensor {', '.join(missing)}", "is this an autoencoder of Gemma Scope's form?"
                )
            _check_shapes(path, {key: tuple(file.get_slice(name).get_shape()) for key, name in names.items()})
            tensors = {key: file.get_tensor(name) for key, name in names.items()}
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: {error}", again) from error
    for key, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ModelError(f"{path}: {names[key]} holds values that are not finite numbers ({tensor.dtype})", again)
    return tensors


def _check_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    encoder = shapes["w_enc"]
    if len(encoder) != 2 or 0 in encoder:
        raise ModelError(
            f"{path}: w_enc has shape {encoder}, not (width, features)", "one layer's folder holds one SAE"
        )
    d, m = encoder
    wanted = {"w_dec": (m, d), "b_enc": (m,), "b_dec": (d,), "threshold": (m,)}
    for key, shape in wanted.items():
        if key in shapes and shapes[key] != shape:
            raise ModelError(
                f"{path}: {key} has shape {shapes[key]}, not {shape} as w_enc {encoder} asks", "restore it"
            )


def _check_config(path: Path, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """What the file says of itself must be what is computed here; anything else would count other features."""
    features, thresholded = tensors["w_enc"].shape[1], "threshold" in tensors
    kind, architecture = config.get("type", "sae"), config.get("architecture")
    if kind != "sae":
        raise ModelError(f"{path}: type {kind!r} is not an autoencoder of one activation", "give an SAE's folder")
    if architecture is not None and str(architecture) not in THRESHOLDED:
        known = ", ".join(THRESHOLDED)
        raise ModelError(f"{path}: architecture {architecture!r} is not known here", f"those that are: {known}")
    contradiction = ""
    if architecture is not None and THRESHOLDED[architecture] != thresholded:
        contradiction = f"architecture {architecture!r}, but {WEIGHTS} has {'a' if thresholded else 'no'} threshold"
    elif config.get("width", features) != features:
        contradiction = f"width {config['width']!r}, but {WEIGHTS} has {features} features"
    if contradiction:
        raise ModelError(f"{path}: {contradiction}", "restore both files from where they came")
    if config.get("normalize_activations") not in (None, "none"):
        raise ModelError(f"{path}: it wants normalised activations, which is not built", "give one that reads them raw")


def check_site(sae: SAE, site: Site) -> str:
    """Refuse an autoencoder of another width or another place; returns what it says of itself that cannot be checked."""
    if sae.dim != site.width:
        raise ModelError(
            f"{sae.path}: it reads {sae.dim} values, {site.name} gives {site.width}",
            "take one that was trained on this teacher's architecture",
        )
    point = sae.config.get("hf_hook_point_in")
    base = sae.config.get("model_name", "it does not say which model")
    if point is None:
        return f"trained on {base}; config.json does not say at which block"
    place = BLOCK_OUTPUT.fullmatch(str(point))
    if place is None:
        raise ModelError(f"{sae.path}: it reads {point!r}, not the output of a whole block", "take a resid_post one")
    if int(place[1]) != site.index:
        raise ModelError(
            f"{sae.path}: it reads block {place[1]}, and {site.name} is block {site.index}",
            "give the folder of the same layer",
        )
    return f"trained on {base} at {point}"
