"""A student that answers samples with one of its adapters, as a teacher does: what evaluation and the gate ask."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from nexus_core.hf.attention import attention_by
from nexus_core.hf.text import TextModel
from nexus_core.student.decode import can_decode, greedy
from nexus_core.student.model import NexusForCausalLM
from nexus_core.types import GenerateOptions, Sample

ATTENTION = "sdpa"


class StudentAnswerer(TextModel):
    """Answers with the adapter of `capability` (None: the plain backbone). Between answers the student is as it was."""

    def __init__(
        self, student: NexusForCausalLM, tokenizer: Any, capability: str | None, allow_isolated: bool = False
    ) -> None:
        super().__init__(student, tokenizer, f"the student ({capability or 'no adapter'})")
        self.capability = capability
        self._allow_isolated = allow_isolated

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        with self._answering():
            return super().generate(samples, options)

    def generate_tokens(
        self,
        samples: Sequence[Sample],
        options: GenerateOptions,
        begun: Sequence[Sequence[int]] | None = None,
        most: int | None = None,
    ) -> list[list[int]]:
        with self._answering():
            return super().generate_tokens(samples, options, begun, most)

    def _continue(self, batch: Mapping[str, torch.Tensor], room: int, options: GenerateOptions) -> list[list[int]]:
        """Greedy answers by the short way, which writes the same tokens."""
        if options.temperature > 0 or options.stop or not can_decode(self._model):
            return super()._continue(batch, room, options)
        return greedy(self._model, batch, room, self._ends())

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """The adapter chosen and the student in eval mode; whoever trains it finds its own choice and mode again."""
        training, attention = self._model.training, self._model.config._attn_implementation
        if self._model.chosen == self.capability and not training and attention == ATTENTION:
            yield  # choosing anew would only drop the weights that were computed for it
            return
        # Teaching has an attention of its own, which knows neither padding on the left nor a cache.
        with self._model.using(self.capability, self._allow_isolated), attention_by(self._model, ATTENTION):
            self._model.eval()
            try:
                yield
            finally:
                self._model.train(training)
