"""What is measured at one chosen block: its spectrum, its components, its heads, its channels, its reconstruction."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nexus_core.profiling.capture import capture
from nexus_core.profiling.causal import decide, drops
from nexus_core.profiling.interventions import Blur, Bypass, Intervention, Project, Silence, Together
from nexus_core.profiling.model import (
    ComponentClass,
    ComponentResult,
    HeadResult,
    PerturbationResult,
    ReconstructionResult,
)
from nexus_core.profiling.pca import PCA, StreamingPCA
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site
from nexus_core.types import Thresholds

GROUP = 16  # components beyond the singly tested ones are projected out this many at a time
NOISE_LEVELS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # of all variance; half an order of magnitude apart
CHUNKS = 8  # parts of an MLP's channels that are silenced in turn


@dataclass(frozen=True, slots=True)
class Trial:
    """Samples to search on and others to verify on, the largest drop that passes, and the seed of the intervals."""

    search: Sequence[int]
    verify: Sequence[int]
    limit: float
    seed: int


@dataclass(frozen=True, slots=True)
class Spectrum:
    """The principal components of a block's output at answer positions."""

    site: Site
    pca: PCA
    tested: int  # how many of them, the strongest first, are put to the causal test

    def project(self, indices: Sequence[int], keep: bool = False) -> Project:
        """Remove these components, or with `keep` all others."""
        chosen = self.pca.select(list(indices))
        basis = torch.from_numpy(np.ascontiguousarray(chosen.basis, dtype=np.float32))
        return Project(self.site, basis, torch.from_numpy(self.pca.mean.astype(np.float32)), keep)


def spectra(scorer: Scorer, sites: Sequence[Site], indices: Sequence[int], k: int, pooled: bool) -> list[Spectrum]:
    """Streaming PCA of every chosen block, over one pass of the profile samples."""
    pcas = {site.name: StreamingPCA(site.width, min(k, site.width), site.name) for site in sites}

    def observe(site: Site, chosen: Sequence[int], hidden: torch.Tensor, mask: torch.Tensor) -> None:
        pcas[site.name].update(pool(hidden, mask) if pooled else hidden[mask])

    capture(scorer, sites, indices, observe)
    found = [(site, pcas[site.name].result()) for site in sites]
    return [Spectrum(site, pca, tested=pca.k) for site, pca in found]


def pool(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean over the answer positions of each sample: (B, T, d) -> (B, d)."""
    weights = mask.to(hidden).unsqueeze(-1)
    pooled: torch.Tensor = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1)
    return pooled


def pooled_coordinates(scorer: Scorer, site: Site, pca: PCA, indices: Sequence[int]) -> np.ndarray:
    """(n, k): each sample's coordinates, averaged over its answer positions, in the order of `indices`."""
    rows: dict[int, np.ndarray] = {}

    def observe(site: Site, chosen: Sequence[int], hidden: torch.Tensor, mask: torch.Tensor) -> None:
        rows.update(zip(chosen, pca.coordinates(pool(hidden, mask)), strict=True))

    capture(scorer, [site], indices, observe)
    return np.stack([rows[i] for i in indices]) if indices else np.empty((0, pca.k))


def classify_components(
    scorer: Scorer, spectrum: Spectrum, order: Sequence[int], thresholds: Thresholds, single: int, seed: int
) -> list[ComponentResult]:
    """Class of every component: the first `single` one by one, the rest in groups that share the group's class."""
    pca = spectrum.pca
    most = min(spectrum.tested, pca.k)
    sets: list[tuple[int, ...]] = [(i,) for i in range(min(single, most))]
    sets += [tuple(range(i, min(i + GROUP, most))) for i in range(len(sets), most, GROUP)]
    outcomes = decide(scorer, [spectrum.project(chosen) for chosen in sets], order, thresholds, seed)
    return [
        ComponentResult(
            index=index,
            cls=verdict.cls,
            drop=drop.value,
            low=drop.low,
            high=drop.high,
            n=drop.n,
            variance_fraction=float(pca.fractions[index]),
            group=f"{chosen[0]}-{chosen[-1]}" if len(chosen) > 1 else None,
            undecided=verdict.undecided,
        )
        for chosen, (drop, verdict) in zip(sets, outcomes, strict=True)
        for index in chosen
    ]


def classify_together(
    scorer: Scorer, spectrum: Spectrum, order: Sequence[int], thresholds: Thresholds, seed: int
) -> list[ComponentResult]:
    """All components at once: finds a capability that is spread so that no single component is missed."""
    pca = spectrum.pca
    ((drop, verdict),) = decide(scorer, [spectrum.project(range(pca.k))], order, thresholds, seed)
    return [
        ComponentResult(
            index,
            verdict.cls,
            drop.value,
            drop.low,
            drop.high,
            drop.n,
            float(share),
            f"0-{pca.k - 1}",
            verdict.undecided,
        )
        for index, share in enumerate(pca.fractions)
    ]


def reconstruct(
    scorer: Scorer, spectrum: Spectrum, components: Sequence[ComponentResult], trial: Trial
) -> tuple[tuple[int, ...], list[ReconstructionResult]]:
    """Keep only the non-negotiable components, then more, until the metric falls by less than the limit.

    The next ones are those with the largest drop, then the largest variance; their number grows by half. What holds on the
    samples it was sought on must hold on the verification samples too. Returns the kept set and every attempt.
    """
    kept = [c.index for c in components if c.cls is ComponentClass.NON_NEGOTIABLE]
    tested = sorted((c for c in components if c.index not in kept), key=lambda c: (-c.drop, c.index))
    # k grows beyond what was tested where the check asks for it: the next directions by variance.
    known = {c.index for c in components}
    waiting = [c.index for c in tested] + [i for i in range(spectrum.pca.k) if i not in known]
    tried: list[ReconstructionResult] = []
    while True:
        kept.sort()
        for samples in (trial.search, trial.verify):
            tried.append(_reconstruction(scorer, spectrum, kept, samples, trial))
            if not tried[-1].passed:
                break
        if tried[-1].passed or not waiting:
            return tuple(kept), tried
        more = max(1, len(kept) // 2)
        kept += waiting[:more]
        waiting = waiting[more:]


def tolerance(scorer: Scorer, spectrum: Spectrum, kept: Sequence[int], trial: Trial) -> float | None:
    """The largest noise inside the kept space, relative to all variance, at which the metric still holds; 0: none does."""
    pca = spectrum.pca.select(list(kept))
    if not kept or not pca.variance.sum():
        return None
    basis = torch.from_numpy(np.ascontiguousarray(pca.basis, dtype=np.float32))
    held = 0.0
    for relative in NOISE_LEVELS:
        scale = relative * spectrum.pca.total_variance / pca.variance.sum()
        deviation = torch.from_numpy(np.sqrt(scale * pca.variance).astype(np.float32))
        (drop,), _ = drops(scorer, [Blur(spectrum.site, basis, deviation, trial.seed)], trial.verify, trial.seed)
        if drop.value >= trial.limit:
            break
        held = relative
    return held


def reconstruct_together(
    scorer: Scorer,
    spectra_and_kept: Sequence[tuple[Spectrum, Sequence[int]]],
    trial: Trial,
) -> ReconstructionResult:
    """All chosen blocks at once reduced to what is kept of each."""
    parts = tuple(spectrum.project(kept, keep=True) for spectrum, kept in spectra_and_kept)
    (drop,), scores = drops(scorer, [Together(parts)], trial.verify, trial.seed)
    lost = [1 - _explained(spectrum.pca, kept) for spectrum, kept in spectra_and_kept]
    k = sum(len(kept) for _, kept in spectra_and_kept)
    value = scorer.value(scores[0], trial.verify)
    return ReconstructionResult(None, k, value, drop.value, trial.limit, max(lost), drop.n, drop.low, drop.high)


def _explained(pca: PCA, kept: Sequence[int]) -> float:
    """Share of all variance that the kept components hold."""
    return float(pca.select(list(kept)).variance.sum() / pca.total_variance) if kept else 0.0


def _reconstruction(
    scorer: Scorer, spectrum: Spectrum, kept: Sequence[int], samples: Sequence[int], trial: Trial
) -> ReconstructionResult:
    (drop,), scores = drops(scorer, [spectrum.project(kept, keep=True)], samples, trial.seed)
    value, error = scorer.value(scores[0], samples), 1 - _explained(spectrum.pca, kept)
    name, k = spectrum.site.name, len(kept)
    return ReconstructionResult(name, k, value, drop.value, trial.limit, error, drop.n, drop.low, drop.high)


def silence_heads(scorer: Scorer, site: Site, order: Sequence[int], seed: int) -> list[HeadResult]:
    """Each head of the block's attention silenced in turn; heads of a second attention follow those of the first."""
    cases = [Silence(site, projection, i, i + 1) for projection in site.heads for i in range(projection.groups)]
    if not cases:
        return []
    measured, _ = drops(scorer, cases, order, seed)
    return [HeadResult(site.name, i, drop.value, drop.low, drop.high) for i, drop in enumerate(measured)]


def ablate(scorer: Scorer, site: Site, order: Sequence[int], seed: int) -> list[PerturbationResult]:
    """The whole block bypassed, and the channels of its MLP silenced part by part."""
    cases: list[Intervention] = [Bypass(site)]
    labels: list[tuple[str, str]] = [("block", "bypass")]
    if site.channels is not None:
        edges = np.linspace(0, site.channels.groups, CHUNKS + 1).astype(int).tolist()
        for start, stop in itertools.pairwise(edges):
            cases.append(Silence(site, site.channels, start, stop))
            labels.append(("mlp_chunk", f"{start}:{stop}"))
    measured, scores = drops(scorer, cases, order, seed)
    return [
        PerturbationResult(
            kind, magnitude, site.name, scorer.value(row, order), drop.value, drop.low, drop.high, drop.n
        )
        for (kind, magnitude), drop, row in zip(labels, measured, scores, strict=True)
    ]


def pilot(scorer: Scorer, sites: Sequence[Site], order: Sequence[int], seed: int) -> dict[str, float]:
    """Drop of bypassing each block in turn."""
    measured, _ = drops(scorer, [Bypass(site) for site in sites], order, seed)
    return {site.name: drop.value for site, drop in zip(sites, measured, strict=True)}


def tokenizer_facts(processor: Any) -> dict[str, Any]:
    """What the tokens of a profile depend on."""
    import hashlib
    import json

    vocabulary = json.dumps(sorted(processor.get_vocab().items()))
    return {
        "class": type(processor).__name__,
        "size": len(processor),
        "sha256": hashlib.sha256(vocabulary.encode()).hexdigest(),
    }
