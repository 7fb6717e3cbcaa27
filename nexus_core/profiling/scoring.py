"""Scores under interventions, without generating what cannot have changed.

Greedy decoding is deterministic, so one forward over prompt and baseline answer tells whether an intervened model would
write the same answer: it does if and only if its most probable token agrees at every answer position (by induction over
positions). Only answers that part from the baseline are generated, from where they part.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from nexus_core.errors import ModelError
from nexus_core.profiling.interventions import Intervention, Positions, applied
from nexus_core.types import CapabilityMetric, GenerateOptions, Sample, Teacher

# One forward is bounded three ways, so that the profiler stays small beside its teacher. Two thousand tokens already
# keep the matrix products busy; more only cost memory.
TOKENS = 2048
LOGITS_BUDGET = 16 << 20  # bytes of logits
CACHE_BUDGET = 8 << 20  # bytes of the prompts' keys and values, which a forward holds about three times
SAMPLES = 32  # samples whose prompts are read together
TOGETHER = 64  # parted answers that are generated in one batch; a step costs nearly the same for 8 rows and for 64
# An intervened teacher may never end. No answer is followed beyond this many times the longest one of the untouched
# teacher (and a few tokens): every condition, the baseline included, is scored under the same limit.
LENGTH_FACTOR, LENGTH_ROOM = 1.5, 8
Heartbeat = Callable[[], None]


@runtime_checkable
class TokenTeacher(Protocol):
    """A teacher that answers token by token; others are scored by whole generations."""

    def encode_answers(
        self, samples: Sequence[Sample], answers: Sequence[Sequence[int]], options: GenerateOptions
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]: ...

    def generate_tokens(
        self,
        samples: Sequence[Sample],
        options: GenerateOptions,
        begun: Sequence[Sequence[int]] | None = None,
        most: int | None = None,
    ) -> list[list[int]]: ...

    def prefill(self, samples: Sequence[Sample], options: GenerateOptions) -> Any: ...

    def continue_answers(
        self, prefix: Any, copies: int, answers: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Any], torch.Tensor]: ...

    def decode_tokens(self, tokens: Sequence[Sequence[int]], options: GenerateOptions) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Baseline:
    """The untouched teacher's answers and scores, by sample."""

    tokens: list[list[int]]
    outputs: list[str]
    scores: np.ndarray  # (n,)


@dataclass(frozen=True, slots=True)
class _Row:
    """One sample under one intervention."""

    case: int
    sample: int


_Parted = tuple[_Row, list[int]]  # a row whose answer is another one, and that answer's tokens so far


class Scorer:
    """A teacher, a metric and samples; scores of any intervention on any of them."""

    def __init__(
        self,
        teacher: Teacher,
        metric: CapabilityMetric,
        samples: Sequence[Sample],
        heartbeat: Heartbeat = lambda: None,
    ) -> None:
        if not isinstance(teacher, TokenTeacher):
            raise ModelError(
                f"{teacher.source.path}: this teacher does not answer token by token, which profiling needs",
                "its plugin must give encode_answers, generate_tokens and decode_tokens (see nexus_core.hf.HFTeacher)",
            )
        self.teacher: Any = teacher
        self.metric = metric
        self.options = metric.options
        self.samples = list(samples)
        self.heartbeat = heartbeat
        self.positions = Positions()
        self.generated = self.skipped = 0  # answers that had to be generated, and those that a forward decided
        self.baseline = self._baseline()
        longest = max((len(tokens) for tokens in self.baseline.tokens), default=0)
        self.most = min(self.options.max_new_tokens, int(LENGTH_FACTOR * longest) + LENGTH_ROOM)

    def _baseline(self) -> Baseline:
        tokens: dict[int, list[int]] = {}
        order = sorted(range(len(self.samples)), key=lambda i: len(self.samples[i].prompt))
        size = self.options.batch_size
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            rows = self.teacher.generate_tokens([self.samples[i] for i in chosen], self.options)
            tokens.update(zip(chosen, rows, strict=True))
            self.heartbeat()
        ordered = [tokens[i] for i in range(len(self.samples))]
        outputs = self.teacher.decode_tokens(ordered, self.options)
        scores = np.asarray(self.metric.score_all(self.samples, outputs), dtype=np.float64)
        return Baseline(ordered, outputs, scores)

    def scores(self, cases: Sequence[Intervention | None], indices: Sequence[int]) -> np.ndarray:
        """(cases, indices): the score of each sample under each intervention. None is the untouched teacher."""
        answers = np.broadcast_to(self.baseline.scores[list(indices)], (len(cases), len(indices))).copy()
        place = {sample: column for column, sample in enumerate(indices)}
        parted: list[tuple[_Row, list[int]]] = []
        # A change at answer positions leaves the prompt as it was read, so prompts are read once for all such cases.
        late = [case for case, change in enumerate(cases) if change is None or change.answers_only]
        parted += self._parted_late(cases, late, indices)
        early = [case for case in range(len(cases)) if case not in late]
        for rows in self._chunks(early, indices):
            parted += self._parted(cases, rows)
            self.heartbeat()
        parted.sort(key=lambda item: (len(item[1]), item[0].case))  # alike in length, and each case's rows in one run
        for start in range(0, len(parted), TOGETHER):
            group = sorted(parted[start : start + TOGETHER], key=lambda item: item[0].case)
            for (row, _), score in zip(group, self._finish(cases, group), strict=True):
                answers[row.case, place[row.sample]] = score
            self.heartbeat()
        self.generated += len(parted)
        self.skipped += answers.size - len(parted)
        return answers

    def _chunks(self, early: Sequence[int], indices: Sequence[int]) -> Iterator[list[_Row]]:
        """Rows in forwards of bounded size: samples of like length together, each case's rows in one run."""
        for some in self.runs(indices) if early else ():
            per_forward = max(1, self._room(self._length(some[-1])) // len(some))
            for first in range(0, len(early), per_forward):
                yield [_Row(case, sample) for case in early[first : first + per_forward] for sample in some]

    def runs(self, indices: Sequence[int]) -> Iterator[list[int]]:
        """Samples of like length, at most as many as fit one forward."""
        order = sorted(indices, key=lambda i: len(self.samples[i].prompt) + len(self.baseline.tokens[i]))
        start = 0
        while start < len(order):
            longest = self._length(order[min(start + SAMPLES, len(order)) - 1])
            some = order[start : start + min(SAMPLES, self._room(longest))]
            start += len(some)
            yield some

    def _room(self, length: int) -> int:
        """Rows of `length` tokens that one forward may hold."""
        vocabulary = self.teacher.model.get_output_embeddings().weight.shape[0]
        return max(1, min(TOKENS // length, LOGITS_BUDGET // int(4 * vocabulary * length)))

    def _length(self, sample: int) -> int:
        batch, _ = self._encode([self.samples[sample]], [self.baseline.tokens[sample]])
        return int(batch["input_ids"].shape[1])

    def _parted_late(
        self, cases: Sequence[Intervention | None], late: Sequence[int], indices: Sequence[int]
    ) -> Iterator[_Parted]:
        """As `_parted`, for cases that act on answer positions only: the prompts are read once."""
        for some in self.runs(indices) if late else ():
            answers = [self.baseline.tokens[i] for i in some]
            prefix = self.teacher.prefill([self.samples[i] for i in some], self.options)
            if prefix is None:
                for rows in self._chunks(late, some):
                    yield from self._parted(cases, rows)
                continue
            room = min(self._room(max(map(len, answers))), CACHE_BUDGET // max(1, prefix.row_bytes))
            per_forward = max(1, room // len(some))
            for first in range(0, len(late), per_forward):
                group = late[first : first + per_forward]
                rows = [_Row(case, sample) for case in group for sample in some]
                inputs, mask = self.teacher.continue_answers(prefix, len(group), answers)
                yield from self._compare(cases, rows, inputs, mask)
                self.heartbeat()

    def _parted(self, cases: Sequence[Intervention | None], rows: Sequence[_Row]) -> Iterator[_Parted]:
        """Rows whose answer parts from the baseline's, with the tokens up to and with the first other one."""
        tokens = [self.baseline.tokens[row.sample] for row in rows]
        inputs, mask = self._encode([self.samples[row.sample] for row in rows], tokens)
        yield from self._compare(cases, rows, inputs, mask)

    @torch.inference_mode()
    def _compare(
        self, cases: Sequence[Intervention | None], rows: Sequence[_Row], inputs: dict[str, Any], mask: torch.Tensor
    ) -> list[_Parted]:
        with applied(plan_of(cases, rows), self.positions):
            self.positions.mask = mask
            said = self.teacher.forward(inputs).logits.argmax(-1)  # (B, T)
        parted: list[_Parted] = []
        for row, line, at in zip(rows, said, mask, strict=True):
            answer, own = self.baseline.tokens[row.sample], line[at].tolist()
            first = next((i for i, (a, b) in enumerate(zip(own, answer, strict=True)) if a != b), None)
            if first is not None:
                parted.append((row, [*answer[:first], own[first]]))
        return parted

    def _finish(self, cases: Sequence[Intervention | None], group: Sequence[_Parted]) -> list[float]:
        """Generate the rest of answers that have parted, each under its own intervention, and score them."""
        options = self.options
        open_ = [i for i, (_, begun) in enumerate(group) if not self._ended(begun)]
        tokens = [list(begun) for _, begun in group]
        if open_:
            rows = [group[i][0] for i in open_]
            begun = [tokens[i] for i in open_]
            samples = [self.samples[row.sample] for row in rows]
            with applied(plan_of(cases, rows), self.positions):
                self.positions.mask = self._answer_mask(samples, begun)
                done = self.teacher.generate_tokens(samples, options, begun, self.most)
            for i, answer in zip(open_, done, strict=True):
                tokens[i] = answer
        outputs = self.teacher.decode_tokens(tokens, options)
        return self.metric.score_all([self.samples[row.sample] for row, _ in group], outputs)

    def _answer_mask(self, samples: Sequence[Sample], begun: Sequence[Sequence[int]]) -> torch.Tensor:
        """Of the first forward of a generation: the last prompt token and the begun answer."""
        _, mask = self._encode(samples, begun)
        mask[:, -1] = True  # its logits give the next token; `encode_answers` leaves it out, as nothing follows there
        return mask

    def _encode(
        self, samples: Sequence[Sample], answers: Sequence[Sequence[int]]
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        encoded: tuple[dict[str, torch.Tensor], torch.Tensor] = self.teacher.encode_answers(
            samples, answers, self.options
        )
        return encoded

    def _ended(self, begun: Sequence[int]) -> bool:
        ends = self.teacher.model.generation_config.eos_token_id
        ends = ends if isinstance(ends, list) else [ends]
        return begun[-1] in ends or len(begun) >= self.most

    def encode(self, indices: Sequence[int]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Prompts with their baseline answers, and the mask (B, T) of the positions that predict the answers."""
        return self._encode([self.samples[i] for i in indices], [self.baseline.tokens[i] for i in indices])

    def value(self, scores: Any, indices: Sequence[int]) -> float:
        """The metric's value of some scores."""
        value = self.metric.aggregate([self.samples[i] for i in indices], list(scores))
        if math.isnan(value):
            raise ModelError(
                f"the metric of {self.metric.name} is not a number", "see the outputs: nexus eval --outputs"
            )
        return value


class Told(Scorer):
    """The reference answers, read with the teacher instead of written by it. It scores nothing."""

    def _baseline(self) -> Baseline:
        tokens = self.teacher.answer_tokens([sample.target for sample in self.samples])
        # Reference answers may be longer than what is asked for when the capability is scored.
        longest = max((len(row) for row in tokens), default=0)
        self.options = replace(self.options, max_new_tokens=max(self.options.max_new_tokens, longest))
        outputs = self.teacher.decode_tokens(tokens, self.options)
        return Baseline(tokens, outputs, np.full(len(tokens), np.nan))


def plan_of(cases: Sequence[Intervention | None], rows: Sequence[_Row]) -> list[tuple[slice, Intervention | None]]:
    """Runs of rows with one case each, as slices of the batch."""
    plan: list[tuple[slice, Intervention | None]] = []
    start = 0
    for end in range(1, len(rows) + 1):
        if end == len(rows) or rows[end].case != rows[start].case:
            plan.append((slice(start, end), cases[rows[start].case]))
            start = end
    return plan
