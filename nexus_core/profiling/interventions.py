"""What can be done to a block while it runs, and undone after: the hands of the profiler.

Interventions are hooks; they leave no trace once their context is left, whatever happened inside. Several may share one
forward: each acts on its own rows of the batch only, which is exact because rows do not see each other. (In a mixture
of experts the rows that an expert reads share one kernel call, so other rows may differ in the last bit.)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from nexus_core.profiling.sites import Projection, Site, hidden_of


class Positions:
    """The batch that is running: its rows, and which positions count as the answer (a mask (B, T), or None for all)."""

    def __init__(self) -> None:
        self.mask: torch.Tensor | None = None
        self.rows = 0

    def of(self, rows: slice, length: int) -> torch.Tensor | None:
        """The mask of `rows`; None means everywhere, as in a decoding step, whose one token is of the answer."""
        if self.mask is None or (length == 1 and self.mask.shape[1] != 1):
            return None
        assert self.mask.shape[1] == length, f"a mask of {self.mask.shape[1]} positions for {length}"
        return self.mask[rows]


class Removable(Protocol):
    """What undoes an intervention."""

    def remove(self) -> None: ...


class Intervention(ABC):
    """A change to the forward pass."""

    @property
    def answers_only(self) -> bool:
        """Whether it acts at answer positions only, so that prompts are read as without it."""
        return False

    @abstractmethod
    def attach(self, rows: slice, positions: Positions) -> Removable:
        """Install the change for `rows` of every forward until the handle is removed."""


@dataclass(frozen=True, slots=True)
class Bypass(Intervention):
    """The block returns what it was given."""

    site: Site

    def attach(self, rows: slice, positions: Positions) -> RemovableHandle:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            hidden = hidden_of(output)
            entered = next(
                value
                for value in (*args, *kwargs.values())
                if isinstance(value, torch.Tensor) and value.shape == hidden.shape and value.dtype == hidden.dtype
            )
            return _with_rows(output, rows, entered[rows])

        return self.site.module.register_forward_hook(hook, with_kwargs=True)


@dataclass(frozen=True, slots=True, eq=False)
class Project(Intervention):
    """h <- h - V^T V (h - mean) at answer positions: the coordinates along V are replaced by their mean.

    With `keep`, the opposite: h <- mean + V^T V (h - mean), which leaves V alone and removes all the rest.
    """

    site: Site
    basis: torch.Tensor  # V: (r, d), orthonormal rows
    mean: torch.Tensor  # (d,)
    keep: bool = False

    @property
    def answers_only(self) -> bool:
        return True

    def attach(self, rows: slice, positions: Positions) -> RemovableHandle:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            hidden = hidden_of(output)[rows]  # (b, T, d)
            basis, mean = self.basis.to(hidden), self.mean.to(hidden)
            inside = (hidden - mean) @ basis.T @ basis
            changed = mean + inside if self.keep else hidden - inside
            mask = positions.of(rows, hidden.shape[1])
            return _with_rows(output, rows, changed if mask is None else torch.where(mask[..., None], changed, hidden))

        return self.site.module.register_forward_hook(hook)


@dataclass(frozen=True, slots=True, eq=False)
class Blur(Intervention):
    """h <- h + V^T e at answer positions, with e normal and seeded: noise inside the space that V spans.

    Every forward draws anew, so a score under it is one draw of noise, not a function of the sample.
    """

    site: Site
    basis: torch.Tensor  # V: (r, d), orthonormal rows
    deviation: torch.Tensor  # (r,) of e
    seed: int

    @property
    def answers_only(self) -> bool:
        return True

    def attach(self, rows: slice, positions: Positions) -> RemovableHandle:
        generator = torch.Generator().manual_seed(self.seed)

        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            hidden = hidden_of(output)[rows]  # (b, T, d)
            noise = torch.randn(*hidden.shape[:2], len(self.deviation), generator=generator) * self.deviation
            changed = hidden + noise.to(hidden) @ self.basis.to(hidden)
            mask = positions.of(rows, hidden.shape[1])
            return _with_rows(output, rows, changed if mask is None else torch.where(mask[..., None], changed, hidden))

        return self.site.module.register_forward_hook(hook)


@dataclass(frozen=True, slots=True)
class Silence(Intervention):
    """Zero some groups (heads, or channels `start:stop` of an MLP) of what a projection reads."""

    site: Site
    projection: Projection
    start: int
    stop: int

    def attach(self, rows: slice, positions: Positions) -> RemovableHandle:
        size = self.projection.size

        def hook(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
            read = args[0].clone()
            # Some MLPs flatten (B, T) before their last map; a row is then a run of T.
            run = read.shape[0] // positions.rows if read.ndim == 2 else 1
            read[rows.start * run : rows.stop * run, ..., self.start * size : self.stop * size] = 0
            return (read, *args[1:])

        return self.projection.module.register_forward_pre_hook(hook)


@dataclass(frozen=True, slots=True)
class Together(Intervention):
    """Several interventions, on several blocks, as one."""

    parts: tuple[Intervention, ...]

    @property
    def answers_only(self) -> bool:
        return all(part.answers_only for part in self.parts)

    def attach(self, rows: slice, positions: Positions) -> _Handles:
        return _Handles([part.attach(rows, positions) for part in self.parts])


class _Handles:
    """Handles that are removed as one."""

    def __init__(self, handles: Sequence[Removable]) -> None:
        self.handles = handles

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


def _with_rows(output: Any, rows: slice, changed: torch.Tensor) -> Any:
    """A block's return value with other rows in its residual stream; nothing that it shares is written to."""
    hidden = hidden_of(output)
    if rows == slice(0, hidden.shape[0]):
        new = changed
    else:
        new = hidden.clone()
        new[rows] = changed
    if isinstance(output, tuple | list):
        return type(output)([new, *output[1:]])
    return new


@contextmanager
def applied(plan: Sequence[tuple[slice, Intervention | None]], positions: Positions) -> Iterator[None]:
    """Each intervention on its rows inside the block; None leaves its rows alone. All hooks go, also on an exception."""
    positions.rows = max((rows.stop for rows, _ in plan), default=0)
    with ExitStack() as stack:
        for rows, intervention in plan:
            if intervention is not None:
                stack.callback(intervention.attach(rows, positions).remove)
        try:
            yield
        finally:
            positions.mask = None


@contextmanager
def changed_weights(block: nn.Module, change: Any) -> Iterator[None]:
    """`change(name, weight) -> new weight` for every matrix of a block; the very same bits come back afterwards."""
    kept = {name: p.detach().clone() for name, p in block.named_parameters() if p.ndim >= 2 and p.is_floating_point()}
    parameters = dict(block.named_parameters())
    try:
        with torch.no_grad():
            for name, weight in kept.items():
                parameters[name].copy_(change(name, weight))
        yield
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                parameters[name].copy_(weight)


def with_noise(scale: float, seed: int) -> Any:
    """Gaussian noise of `scale` times each matrix's own standard deviation."""
    generator = torch.Generator().manual_seed(seed)

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        return weight + noise * weight.std() * scale

    return change


def low_rank(fraction: float) -> Any:
    """The best approximation of each matrix with `fraction` of its rank (truncated SVD)."""

    def change(name: str, weight: torch.Tensor) -> torch.Tensor:
        u, s, v = torch.linalg.svd(weight.float(), full_matrices=False)
        k = max(1, round(fraction * s.shape[-1]))
        approximation: torch.Tensor = (u[..., :k] * s[..., None, :k]) @ v[..., :k, :]
        return approximation.to(weight.dtype)

    return change
