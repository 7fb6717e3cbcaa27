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
    Packed,
    SignalCache,
    TailAverage,
    TeacherSignal,
    UnitKey,
    byte_offsets,
)
from nexus_core.profiling.capture import capture
from nexus_core.profiling.model import BlockProfile, CapabilityProfile
from nexus_core.profiling.scoring import Scorer, Told
from nexus_core.profiling.sites import Site, find_sites
from nexus_core.types import CapabilityMetric, GenerateOptions, Sample, SampleRequest, Split, Teacher

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

    def drill(self, n: int, seed: int) -> int:
        """Signals of `n` samples of the capability's drill, if it has one; returns how many had to be asked for.

        A drill asks several things of one text. The teacher does not write its answers, it reads the reference and says at
        each place what it would have said: that is one pass instead of one per token.
        """
        if self.metric.drill is None or not hasattr(self.teacher, "answer_tokens"):
            return 0
        return self._collect(SampleRequest(Split.TRAIN, n, seed, self.metric.drill), Told)

    def collect(self, n: int, seed: int, data: str | None = None) -> int:
        """Signals of `n` samples of the train split; returns how many of them had to be asked for."""
        return self._collect(SampleRequest(Split.TRAIN, n, seed, data), Scorer)

    def _collect(self, request: SampleRequest, kind: type[Scorer]) -> int:
        samples = list(itertools.islice(self.metric.samples(request), request.n))
        heads = self._heads(samples)
        asked = 0
        for start in range(0, len(samples), UNIT):
            chunk = samples[start : start + UNIT]
            key = self._key(chunk, heads, kind is Told)
            if not self.cache.has(key):
                self.say(f"signals {start + len(chunk)} of {len(samples)}")
                self.cache.write(
                    key, list(self._signals(kind(self.teacher, self.metric, chunk, self.heartbeat), heads))
                )
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

    def _key(self, chunk: Sequence[Sample], heads: Mapping[str, tuple[int, ...]], told: bool) -> UnitKey:
        settings: dict[str, Any] = {"options": asdict(self.metric.options), "bases": _bases_hash(self.profile.blocks)}
        if heads:  # without, a unit keeps the name that it had before there were summaries
            settings["heads"] = {block: list(of) for block, of in heads.items()}
        if told:
            settings["told"] = True
        return UnitKey(
            teacher=self.profile.teacher,
            weights=self.profile.weights_hash,
            capability=self.profile.capability,
            split=Split.TRAIN.value,
            samples=tuple(sample.digest for sample in chunk),
            settings=settings,
        )

    def _signals(self, scorer: Scorer, heads: Mapping[str, tuple[int, ...]]) -> Iterator[TeacherSignal]:
        coordinates, packed, codec = self._read(scorer)
        offsets = [
            byte_offsets(output, _spans(self.teacher, tokens, output, scorer.options)).reshape(-1, 2)
            for tokens, output in zip(scorer.baseline.tokens, scorer.baseline.outputs, strict=True)
        ]
        attention = attention_summaries(scorer, heads, offsets)
        for i, sample in enumerate(scorer.samples):
            yield TeacherSignal(
                digest=sample.digest,
                prompt=sample.prompt,
                output=scorer.baseline.outputs[i],
                token_ids=np.asarray(scorer.baseline.tokens[i], dtype=np.int32),
                offsets=offsets[i],
                logits=packed[i],
                codec=codec,
                coefficients={name: rows_of[i] for name, rows_of in coordinates.items()},
                attention={name: summary_of[i] for name, summary_of in attention.items()},
            )

    def _read(self, scorer: Scorer) -> tuple[dict[str, dict[int, Coefficients]], dict[int, Packed], LogitCodec]:
        """In one pass over the answers: coordinates of every token in each block's protected space (block -> sample ->
        (tokens, k)), packed logits by sample, and the codec that unpacks them."""
        found: dict[str, dict[int, Coefficients]] = {}
        packed: dict[int, Packed] = {}
        codecs: list[LogitCodec] = []
        blocks = {block.block: block for block in self.profile.blocks if block.pca.k}
        sites = [s for s in find_sites(self.teacher, self.teacher.encode(scorer.samples[:1])) if s.name in blocks]

        def observe(site: Site, chosen: Sequence[int], hidden: Any, mask: Any) -> None:
            block = blocks[site.name]
            for row, sample in enumerate(chosen):
                coordinates = block.pca.coordinates(hidden[row][mask[row]])  # (tokens, k)
                reason = "every direction of this block is protected" if block.pca.k >= block.dim else ""
                found.setdefault(site.name, {})[sample] = Coefficients.of(coordinates, block.dim, reason=reason)

        def said(chosen: Sequence[int], logits: Any, mask: Any) -> None:
            of_answers = [
                logits[row][mask[row]].float().cpu().numpy() for row in range(len(chosen))
            ]  # (tokens, V) each
            if not codecs:
                codecs.append(_codec(of_answers))
            packed.update((sample, codecs[0].encode(rows)) for sample, rows in zip(chosen, of_answers, strict=True))

        capture(scorer, sites, range(len(scorer.samples)), observe, said)
        return found, packed, codecs[0]


def _codec(logits: Sequence[np.ndarray]) -> LogitCodec:
    """The tail that the unit's entries share is the average over its own first forward."""
    plain = LogitCodec(int(logits[0].shape[1]))
    average = TailAverage(plain.vocabulary)
    for some in logits:
        average.add(plain.log_probs(some))
    return LogitCodec(plain.vocabulary, average.shape())


def _spans(teacher: Any, tokens: Sequence[int], output: str, options: GenerateOptions) -> list[tuple[int, int]]:
    """Where each token's characters lie in the output: the growth of the decoded text."""
    prefixes = [list(tokens[:end]) for end in range(1, len(tokens) + 1)]
    ends = [min(len(text), len(output)) for text in teacher.decode_tokens(prefixes, options)]
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
