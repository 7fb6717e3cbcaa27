"""Which adapters a prompt is for: probabilities, and the decision to use none of them.

    e = sum_b w_b E[b]                        (B, width)    mean of hashed features, weights w of a prompt sum to 1
    logit_c = (W [e, shallow] + bias)_c / T   (B, n)        one question per adapter, "is it this one?": no softmax
    density_c = sum_b w_b log p(b | c)        (B, n)        how much the prompt looks like what adapter c was taught on

An adapter is proposed where its logit and its density both reach what all but a few held-out prompts of its own reach;
otherwise the plain backbone answers. Two checks, because they fail on different texts: the heads know only the negatives
that they were shown, the density knows only the training prompts, and foreign text is far from those in any language.
Sigmoids rather than a softmax: a single adapter still has a gradient, and "none of them" needs no class of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import nn
from torch.nn import functional

from nexus_core.atomic import write_atomic
from nexus_core.errors import DataError
from nexus_core.student.arch import RouterArch, StudentArch
from nexus_core.student.router_features import SHALLOW, Features, features
from nexus_core.uncensored import is_named_uncensored

FORMAT = "nexus-router-1"
HEADER_BYTES = 1 << 20  # what a file may hold beside its tensors


@dataclass(frozen=True, slots=True)
class Route:
    """Adapters to use, best first; none of them means the plain backbone. `reason` says why in a few words."""

    adapters: tuple[str, ...]
    reason: str
    probabilities: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the router thinks of B prompts, as tensors (B, n)."""

    logits: torch.Tensor
    density: torch.Tensor

    @property
    def probabilities(self) -> torch.Tensor:
        return torch.sigmoid(self.logits)


class SparseIntentRouter(nn.Module):
    """Small, deterministic, and closed before it is trained: without a calibrated floor it proposes no adapter."""

    log_density: torch.Tensor
    density_floor: torch.Tensor
    logit_floor: torch.Tensor
    temperature: torch.Tensor

    def __init__(self, arch: RouterArch, seed: int = 42) -> None:
        super().__init__()
        check_router(arch)
        self.arch = arch
        n = len(arch.classes)
        self.embedding = nn.EmbeddingBag(arch.buckets, arch.width, mode="sum")
        self.heads = nn.Linear(arch.width + SHALLOW, n)
        self.register_buffer("log_density", torch.zeros(arch.buckets, n))
        self.register_buffer("density_floor", torch.full((n,), torch.inf))
        self.register_buffer("logit_floor", torch.full((n,), torch.inf))
        self.register_buffer("temperature", torch.ones(()))
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # A prompt averages some hundred buckets; unit weights there leave an embedding of about unit size.
            self.embedding.weight.normal_(0.0, 1.0, generator=generator)
            self.heads.weight.normal_(0.0, (arch.width + SHALLOW) ** -0.5, generator=generator)
            self.heads.bias.zero_()

    def forward(self, batch: Features) -> Judgement:
        ids, starts = torch.from_numpy(batch.ids), torch.from_numpy(batch.starts[:-1])
        weights = torch.from_numpy(batch.weights)
        embedded = self.embedding(ids, starts, per_sample_weights=weights)  # (B, width)
        seen = torch.cat([embedded, torch.from_numpy(batch.shallow)], dim=1)
        density = functional.embedding_bag(ids, self.log_density, starts, mode="sum", per_sample_weights=weights)
        empty = torch.from_numpy(np.diff(batch.starts) == 0)  # the sum over nothing is 0, the density of a certainty
        return Judgement(self.heads(seen) / self.temperature, density.masked_fill(empty[:, None], -torch.inf))

    def features(self, prompts: Sequence[str]) -> Features:
        """What `forward` takes."""
        return features(prompts, self.arch.buckets)

    def accepted(self, seen: Judgement) -> torch.Tensor:
        """Which adapters may be proposed (B, n). A comparison with NaN is false: a damaged router abstains."""
        return (seen.logits >= self.logit_floor) & (seen.density >= self.density_floor)

    def gates(self, batch: Features) -> torch.Tensor:
        """Probabilities of the `most` best adapters, 0 elsewhere (B, n), with their gradient.

        They are not scaled to sum to 1: a single gate would then be the constant 1, and nothing could be learnt from it.
        """
        probabilities: torch.Tensor = self(batch).probabilities
        kept = probabilities.topk(min(self.arch.most, len(self.arch.classes)), dim=1).indices
        return probabilities * torch.zeros_like(probabilities).scatter(1, kept, 1.0)

    def route(self, prompt: str, capability: str | None = None) -> Route:
        """The adapters for one prompt. A capability that the caller names wins, unread: it may be an isolated one."""
        if capability is not None:
            return Route((capability,), "asked for by name")
        return self.routes([prompt])[0]

    @torch.no_grad()
    def routes(self, prompts: Sequence[str]) -> list[Route]:
        """The same for many prompts."""
        if not prompts:
            return []
        seen = self(self.features(prompts))
        accepted, probabilities = self.accepted(seen).tolist(), seen.probabilities.tolist()
        return [self._route(row, chances) for row, chances in zip(accepted, probabilities, strict=True)]

    def _route(self, accepted: list[bool], probabilities: list[float]) -> Route:
        table = dict(zip(self.arch.classes, probabilities, strict=True))
        allowed = [name for name, ok in zip(self.arch.classes, accepted, strict=True) if ok]
        # Equal probabilities keep the order of the classes: `sorted` is stable.
        best = tuple(sorted(allowed, key=lambda name: -table[name])[: self.arch.most])
        return Route(best, "looks like its training prompts" if best else "looks like none of them", table)


def check_router(arch: RouterArch) -> None:
    """`DataError` for a plan that cannot be a router, or that could reach uncensored weights."""
    if wrong := [name for name in arch.classes if is_named_uncensored([name])]:
        raise DataError(f'router: "{wrong[0]}" cannot be a class', "an isolated adapter is only reachable by its name")
    if len(set(arch.classes)) != len(arch.classes) or not arch.classes:
        raise DataError(f"router: the classes {list(arch.classes)} are none, or repeated", "plan the student again")
    if not (arch.buckets > 0 and arch.width > 0 and arch.most > 0):
        raise DataError(
            f"router: buckets {arch.buckets}, width {arch.width} and most {arch.most} must be above 0",
            "plan the student again",
        )


def router_of(student: StudentArch) -> RouterArch:
    """The plan of the student's router, after making sure that each class is an adapter of it that is not isolated."""
    known = {adapter.capability: adapter for adapter in student.adapters}
    for name in student.router.classes:
        if name not in known:
            raise DataError(f'router: the student has no adapter for the class "{name}"', "plan the student again")
        if known[name].isolated:
            raise DataError(f'router: "{name}" is isolated and cannot be a class', "it is only reachable by its name")
    check_router(student.router)
    return student.router


def save_router(router: SparseIntentRouter, path: Path) -> None:
    """Write it whole or not at all; the same router gives the same bytes."""
    tensors = {name: tensor.contiguous() for name, tensor in router.state_dict().items()}
    write_atomic(path, save(tensors, {"router": _plan(router.arch)}))


def load_router(path: Path, arch: RouterArch) -> SparseIntentRouter:
    """Read a router strictly: its plan, and the names, shapes and kinds of its tensors, must be those of `arch`."""
    router = SparseIntentRouter(arch)
    expected = router.state_dict()
    tensors, plan = _read(path, sum(t.numel() * t.element_size() for t in expected.values()))
    if plan != _plan(arch):
        raise DataError(f"{path}: made for another router: {plan}", f"this student has {_plan(arch)}")
    if different := sorted(set(tensors) ^ set(expected)):
        raise DataError(f"{path}: the tensor {different[0]!r} is missing or not known", "train the router again")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape or tensor.dtype != expected[name].dtype or tensor.isnan().any():
            raise DataError(f"{path}: the tensor {name!r} has another shape or kind, or no number", "train it again")
    router.load_state_dict(tensors)
    return router.eval()


def _read(path: Path, size: int) -> tuple[dict[str, torch.Tensor], str]:
    """Tensors and plan of a file that is not larger than such a router can be."""
    try:
        if path.stat().st_size > size + HEADER_BYTES:
            raise DataError(f"{path} is larger than this router", f"its tensors have {size} bytes")
        raw = path.read_bytes()
        tensors = load(raw)
        header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    except FileNotFoundError as error:
        raise DataError(f"{path} is not there", "train the router first") from error
    except (SafetensorError, ValueError) as error:
        raise DataError(f"{path} is no safetensors file: {error}", "train the router again") from error
    return tensors, str(header.get("__metadata__", {}).get("router", ""))


def _plan(arch: RouterArch) -> str:
    return json.dumps({"format": FORMAT, **asdict(arch)}, sort_keys=True)
