"""What a trained router does on prompts that it has not seen: right, wrong, and how often it leaves a prompt alone."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nexus_core.stats import binomial_interval

if TYPE_CHECKING:
    from rich.table import Table

    from nexus_core.student.router import SparseIntentRouter

BINS = 10
TIMED = 200  # prompts whose routing is timed one by one
NONE = "none"


@dataclass(frozen=True, slots=True)
class Measured:
    """Prompts with the index of their class (-1: none of them), foreign texts by kind, and how long training took."""

    prompts: Sequence[tuple[str, int]]
    foreign: Mapping[str, Sequence[str]]
    seconds: float


@dataclass(frozen=True, slots=True)
class RouterReport:
    """Held-out figures. `confusion[right][chosen]` counts prompts; `none` is the plain backbone."""

    classes: tuple[str, ...]
    n: int
    accuracy: float
    ci95: tuple[float, float]
    confusion: Mapping[str, Mapping[str, int]]
    foreign: Mapping[str, tuple[int, int]]  # kind -> (left alone, of)
    calibration_error: float
    microseconds: float  # median of one prompt at a time
    microseconds_p99: float
    parameters: int
    seconds: float

    @property
    def abstained(self) -> float:
        """Share of foreign texts that are left to the plain backbone, each kind counting the same."""
        return float(np.mean([alone / of for alone, of in self.foreign.values()])) if self.foreign else float("nan")

    def table(self) -> Table:
        """The confusion matrix: a row for what is right, a column for what was chosen."""
        from rich.table import Table

        title = f"router: {self.accuracy:.3f} right of {self.n} ({self.ci95[0]:.3f} to {self.ci95[1]:.3f})"
        table = Table(title=title)
        table.add_column("prompts of", no_wrap=True)
        for name in (*self.classes, NONE):
            table.add_column(name, justify="right")
        for right, row in self.confusion.items():
            table.add_row(right, *(str(row[name]) for name in (*self.classes, NONE)))
        if self.foreign:
            table.add_section()
        for kind, (alone, of) in self.foreign.items():
            table.add_row(f"foreign: {kind}", *("" for _ in self.classes), f"{alone} of {of}")
        return table


def report_of(router: SparseIntentRouter, measured: Measured) -> RouterReport:
    """Route everything once."""
    classes = router.arch.classes
    texts, targets = [text for text, _ in measured.prompts], [target for _, target in measured.prompts]
    routes = router.routes(texts)
    chosen = [route.adapters[0] if route.adapters else NONE for route in routes]
    right = [classes[target] if target >= 0 else NONE for target in targets]
    correct = sum(one == other for one, other in zip(chosen, right, strict=True))
    counts = {row: dict.fromkeys((*classes, NONE), 0) for row in dict.fromkeys((*classes, *right))}
    for one, other in zip(right, chosen, strict=True):
        counts[one][other] += 1
    times = _microseconds(router, texts)
    return RouterReport(
        classes=classes,
        n=len(texts),
        accuracy=correct / len(texts),
        ci95=binomial_interval(correct, len(texts)),
        confusion=counts,
        foreign={kind: _left_alone(router, some) for kind, some in measured.foreign.items()},
        calibration_error=_calibration_error([route.probabilities for route in routes], right),
        microseconds=float(np.median(times)),
        microseconds_p99=float(np.percentile(times, 99)),
        parameters=sum(tensor.numel() for tensor in router.state_dict().values()),
        seconds=measured.seconds,
    )


def _left_alone(router: SparseIntentRouter, texts: Sequence[str]) -> tuple[int, int]:
    return sum(not route.adapters for route in router.routes(texts)), len(texts)


def _calibration_error(probabilities: Sequence[Mapping[str, float]], right: Sequence[str]) -> float:
    """Expected calibration error: how far the best class's probability is from the share that is right, over bins."""
    best = [max(table, key=lambda name: table[name]) for table in probabilities]
    sure = np.array([table[name] for table, name in zip(probabilities, best, strict=True)])
    hit = np.array([one == other for one, other in zip(best, right, strict=True)], dtype=float)
    bins: Any = np.minimum((sure * BINS).astype(int), BINS - 1)
    gaps = [abs(float((hit - sure)[bins == b].sum())) for b in range(BINS)]
    return sum(gaps) / len(right)


def _microseconds(router: SparseIntentRouter, texts: Sequence[str]) -> list[float]:
    """Of prompts spread over all of them, one by one, with the features."""
    times = []
    for text in texts[:: max(1, len(texts) // TIMED)]:
        started = time.perf_counter()
        router.route(text)
        times.append(1e6 * (time.perf_counter() - started))
    return times
