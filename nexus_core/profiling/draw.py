"""Draw the samples of a profile: a stratified reservoir over the profile split, in one pass and bounded memory."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence

from nexus_core.errors import DataError
from nexus_core.types import CapabilityMetric, Sample, SampleRequest, Split

OVERSAMPLE = 4  # samples looked at for each one taken, so that strata a quarter as common as the others still fill


def draw_samples(metric: CapabilityMetric, n: int, seed: int, data: str | None = None) -> list[Sample]:
    """`n` samples of the profile split, as even over the strata as they allow, in an order drawn from the seed."""
    request = SampleRequest(Split.PROFILE, n * OVERSAMPLE, seed, data)
    chosen = stratify(itertools.islice(metric.samples(request), n * OVERSAMPLE), n, seed)
    if not chosen:
        raise DataError(f"capability {metric.name} has no profile samples", "check --data")
    return chosen


def stratify(stream: Iterable[Sample], n: int, seed: int) -> list[Sample]:
    """One reservoir per stratum (algorithm R), then equal shares; what a rare stratum lacks, the others give."""
    rng = random.Random(seed)
    kept: dict[str, list[Sample]] = defaultdict(list)
    met: dict[str, int] = defaultdict(int)
    for sample in stream:
        pool = kept[sample.stratum]
        met[sample.stratum] += 1
        if len(pool) < n:
            pool.append(sample)
        elif (slot := rng.randrange(met[sample.stratum])) < n:
            pool[slot] = sample
    shares = _shares({name: len(pool) for name, pool in kept.items()}, n)
    chosen = [sample for name in sorted(kept) for sample in rng.sample(kept[name], shares[name])]
    rng.shuffle(chosen)
    return chosen


def _shares(sizes: dict[str, int], n: int) -> dict[str, int]:
    """Equal shares, the rarest stratum first, so that what it cannot fill is spread over the rest."""
    shares: dict[str, int] = {}
    left = min(n, sum(sizes.values()))
    for place, name in enumerate(sorted(sizes, key=lambda name: (sizes[name], name))):
        shares[name] = min(sizes[name], left // (len(sizes) - place))
        left -= shares[name]
    return shares


def split_off(samples: Sequence[Sample], wanted: int, verify: int) -> tuple[list[int], list[int]]:
    """Indices for profiling and for verification; the latter are never used to find what they verify."""
    kept = verify if len(samples) >= wanted + verify else min(verify, len(samples) // 2)  # few data: half for finding
    return list(range(len(samples) - kept)), list(range(len(samples) - kept, len(samples)))
