"""Ask the teacher once for what stage 4 trains on: answers, compressed logits, coordinates in the protected subspaces.

After this the teacher may leave memory for good. Units of the cache are small and finished one by one, so that a run that
is interrupted goes on with the next unit.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from nexus_core.profiling.attention import attention_summaries, missing_attention
from nexus_core.profiling.cache import (
    Coefficients,
    LogitCodec,
    SignalCache,
    TailAverage,
    TeacherSignal,
    UnitKey,
    byte_offsets,
)
from nexus_core.profiling.capture import ROWS, capture
from nexus_core.profiling.model import BlockProfile, CapabilityProfile
from nexus_core.profiling.scoring import Scorer
from nexus_core.profiling.sites import Site, find_sites
from nexus_core.types import CapabilityMetric, Sample, SampleRequest, Split, Teacher

UNIT = 64  # samples per unit: some seconds of work, and some hundred kilobytes


@dataclass(frozen=True, slots=True)
class Collector:
    """Writes the signals of one teacher on one capability into a cache.

    `heads` are those whose attention is summarised, by block (see `important_heads`); none where the teacher offers no
    attention weights.
    """

    teacher: Teacher
    metric: CapabilityMetric
    profile: CapabilityProfile
    cache: SignalCache
    say: Callable[[str], None] = lambda text: None
    heartbeat: Callable[[], None] = lambda: None
    heads: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def collect(self, n: int, seed: int, data: str | None = None) -> int:
        """Signals of `n` samples of the train split; returns how many of them had to be asked for."""
        request = SampleRequest(Split.TRAIN, n, seed, data)
        samples = list(itertools.islice(self.metric.samples(request), n))
        heads = self._heads(samples)
        asked = 0
        for start in range(0, len(samples), UNIT):
            chunk = samples[start : start + UNIT]
            key = self._key(chunk, heads)
            if not self.cache.has(key):
                self.say(f"signals {start + len(chunk)} of {len(samples)}")
                self.cache.write(key, list(self._signals(chunk, heads)))
                asked += len(chunk)
        return asked

    def _heads(self, samples: Sequence[Sample]) -> dict[str, tuple[int, ...]]:
        """The heads to summarise, if the teacher lets itself be watched."""
        if not self.heads or not samples:
            return {}
        if reason := missing_attention(self.teacher, self.metric, samples[0]):
            self.say(f"no attention summaries: {reason}")
            return {}
        return dict(self.heads)

    def _key(self, chunk: Sequence[Sample], heads: Mapping[str, tuple[int, ...]]) -> UnitKey:
        settings: dict[str, Any] = {"options": asdict(self.metric.options), "bases": _bases_hash(self.profile.blocks)}
        if heads:  # without, a unit keeps the name that it had before there were summaries
            settings["heads"] = {block: list(of) for block, of in heads.items()}
        return UnitKey(
            teacher=self.profile.teacher,
            weights=self.profile.weights_hash,
            capability=self.profile.capability,
            split=Split.TRAIN.value,
            samples=tuple(sample.digest for sample in chunk),
            settings=settings,
        )

    def _signals(self, chunk: Sequence[Sample], heads: Mapping[str, tuple[int, ...]]) -> Iterator[TeacherSignal]:
        scorer = Scorer(self.teacher, self.metric, chunk, self.heartbeat)
        coordinates = self._coordinates(scorer)
        codec = self._codec(scorer)
        offsets = [
            byte_offsets(output, _spans(self.teacher, tokens, output, self.metric)).reshape(-1, 2)
            for tokens, output in zip(scorer.baseline.tokens, scorer.baseline.outputs, strict=True)
        ]
        attention = attention_summaries(scorer, heads, offsets)
        for start in range(0, len(chunk), ROWS):
            rows = range(start, min(start + ROWS, len(chunk)))
            for i, logits in zip(rows, _answer_logits(scorer, rows), strict=True):
                yield TeacherSignal(
                    digest=chunk[i].digest,
                    prompt=chunk[i].prompt,
                    output=scorer.baseline.outputs[i],
                    token_ids=np.asarray(scorer.baseline.tokens[i], dtype=np.int32),
                    offsets=offsets[i],
                    logits=codec.encode(logits),
                    codec=codec,
                    coefficients={name: rows_of[i] for name, rows_of in coordinates.items()},
                    attention={name: summary_of[i] for name, summary_of in attention.items()},
                )
            self.heartbeat()

    def _codec(self, scorer: Scorer) -> LogitCodec:
        """The tail that the unit's entries share is the average over its own first forward."""
        rows = range(min(ROWS, len(scorer.samples)))
        logits = _answer_logits(scorer, rows)
        plain = LogitCodec(int(logits[0].shape[1]))
        average = TailAverage(plain.vocabulary)
        for some in logits:
            average.add(plain.log_probs(some))
        return LogitCodec(plain.vocabulary, average.shape())

    def _coordinates(self, scorer: Scorer) -> dict[str, dict[int, Coefficients]]:
        """Coordinates of every answer token in each block's protected space: block -> sample -> (tokens, k)."""
        found: dict[str, dict[int, Coefficients]] = {}
        blocks = {block.block: block for block in self.profile.blocks if block.pca.k}
        sites = [s for s in find_sites(self.teacher, self.teacher.encode(scorer.samples[:1])) if s.name in blocks]

        def observe(site: Site, chosen: Sequence[int], hidden: Any, mask: Any) -> None:
            block = blocks[site.name]
            for row, sample in enumerate(chosen):
                coordinates = block.pca.coordinates(hidden[row][mask[row]])  # (tokens, k)
                reason = "every direction of this block is protected" if block.pca.k >= block.dim else ""
                found.setdefault(site.name, {})[sample] = Coefficients.of(coordinates, block.dim, reason=reason)

        if sites:
            capture(scorer, sites, range(len(scorer.samples)), observe)
        return found


def _answer_logits(scorer: Scorer, rows: Sequence[int]) -> list[np.ndarray]:
    """Logits of each answer's tokens, (T, V) per sample, from one forward."""
    batch, mask = scorer.encode(rows)
    logits = scorer.teacher.forward(batch).logits
    return [logits[i][mask[i]].float().cpu().numpy() for i in range(len(rows))]


def _spans(teacher: Any, tokens: Sequence[int], output: str, metric: CapabilityMetric) -> list[tuple[int, int]]:
    """Where each token's characters lie in the output: the growth of the decoded text."""
    prefixes = [list(tokens[:end]) for end in range(1, len(tokens) + 1)]
    ends = [min(len(text), len(output)) for text in teacher.decode_tokens(prefixes, metric.options)]
    ends = list(itertools.accumulate(ends, max))  # half a character decodes to a placeholder, which may be longer
    return list(zip([0, *ends[:-1]], ends, strict=True)) if ends else []


def _bases_hash(blocks: Sequence[BlockProfile]) -> str:
    """Coordinates mean something in these bases only."""
    digest = hashlib.sha256()
    for block in blocks:
        digest.update(block.block.encode())
        for array in (block.pca.mean, block.pca.basis):
            digest.update(np.ascontiguousarray(array, dtype=np.float32).tobytes())
    return digest.hexdigest()
