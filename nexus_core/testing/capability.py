"""Conformance of a capability pack: splits that never overlap, a metric that can tell right from wrong."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

from nexus_core.testing.base import Conformance, require
from nexus_core.types import CapabilityMetric, Direction, Kind, Sample, SampleRequest, Split


class CapabilityConformance(Conformance):
    """Set `capability` where it is not the plugin's own name."""

    kind = Kind.CAPABILITY
    capability: ClassVar[str] = ""
    n: ClassVar[int] = 60  # samples looked at per split

    @property
    def metric(self) -> CapabilityMetric:
        return self.alone.capability_metric(self.capability or self.subject.name)

    def draw(self, split: Split, seed: int = 42) -> list[Sample]:
        return list(itertools.islice(self.metric.samples(SampleRequest(split, self.n, seed)), self.n))

    def test_answers_its_own_name_only(self) -> None:
        """metric: answers its own capability and no other"""
        metric = self.metric
        require(metric.name == (self.capability or self.subject.name), f"the metric is called {metric.name!r}")
        require(isinstance(metric.direction, Direction), f"direction is {metric.direction!r}, expected a Direction")
        strangers = list(
            self.alone.answers(self.kind, "capability_metric", self.subject.key, name="a-capability-of-nobody")
        )
        require(not strangers, "answers for a capability that does not exist")

    def test_contract(self) -> None:
        """contract: the registry has one, with the same metric and direction"""
        from nexus_core.discovery import registry_fragments
        from nexus_core.registry import find_registry, load_registry

        registry = load_registry(find_registry(), registry_fragments([self.subject]))
        contract = registry.contract(self.metric.name)
        require(
            contract.direction is self.metric.direction,
            f"the contract says {contract.direction.value} is better, the pack says {self.metric.direction.value}",
        )
        require(
            contract.metric == self.metric.metric,
            f"the contract measures {contract.metric}, the pack {self.metric.metric}",
        )

    def test_splits_are_disjoint(self) -> None:
        """splits: train, profile and verify share no sample"""
        digests = {split: {sample.digest for sample in self.draw(split)} for split in Split}
        for split, found in digests.items():
            require(len(found) > 1, f"split {split.value} has {len(found)} distinct samples")
        for a, b in itertools.combinations(Split, 2):
            shared = digests[a] & digests[b]
            require(not shared, f"{len(shared)} samples are in both {a.value} and {b.value}")

    def test_order_depends_on_the_seed_alone(self) -> None:
        """samples: the same seed gives the same samples, another seed others"""
        first, again, other = self.draw(Split.PROFILE), self.draw(Split.PROFILE), self.draw(Split.PROFILE, seed=7)
        require(first == again, "two draws with one seed differ")
        require(first != other, "another seed gives the same samples in the same order")

    def test_metric_tells_right_from_wrong(self) -> None:
        """score: the reference outputs beat empty and swapped ones"""
        metric, samples = self.metric, self.draw(Split.VERIFY)
        right = self._value(metric, samples, [sample.target for sample in samples])
        empty = self._value(metric, samples, ["" for _ in samples])
        others = [sample.target for sample in samples[1:] + samples[:1]]
        swapped = self._value(metric, samples, others)
        sign = 1 if metric.direction is Direction.HIGHER else -1
        require(sign * right > sign * empty, f"reference outputs score {right:g}, empty ones {empty:g}")
        require(sign * right > sign * swapped, f"reference outputs score {right:g}, those of other samples {swapped:g}")

    def test_hostile_outputs_do_not_break_it(self) -> None:
        """score: odd outputs get a number, not an exception"""
        metric, sample = self.metric, self.draw(Split.VERIFY)[0]
        for output in ("", "\x00", "[" * 10_000, "9" * 10_000, "\ud800", sample.target[: len(sample.target) // 2]):
            score = metric.score(sample, output)
            require(isinstance(score, float | int) and math.isfinite(score), f"scores {output[:20]!r} as {score!r}")

    def _value(self, metric: CapabilityMetric, samples: list[Sample], outputs: list[str]) -> float:
        return metric.aggregate(samples, metric.score_all(samples, outputs))
