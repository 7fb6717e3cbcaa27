"""Prompts in, pieces of answers out: one model, one lock, any number of threads.

The lock is held for a token of a batch at a time and never while a caller has the word, so a stream that nobody reads on
stops nobody. What an adapter contributes is fixed when the prompts have been read; then another one may be chosen.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nexus.text import Answer, Decode
from nexus_core.errors import UsageError
from nexus_core.hf.text import TextModel
from nexus_core.hf.threads import fitted_threads
from nexus_core.student.decode import Writing, best
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.sampling import Sampler
from nexus_core.types import GenerateOptions, Sample

log = logging.getLogger("nexus")


@dataclass(frozen=True, slots=True)
class Voice:
    """Who answers: an adapter (None: the plain backbone), and how its tokens become text."""

    capability: str | None
    isolated: bool
    decode: Decode


class Session(TextModel):
    """The model with its lock. Whoever changes the model holds the lock, too."""

    def __init__(self, model: NexusForCausalLM, tokenizer: Any, where: str) -> None:
        super().__init__(model, tokenizer, where)
        self.lock = threading.Lock()
        self._over = self._ends() | {self._tokenizer.pad_token_id}  # as when it is verified, padding ends an answer too

    def rehearse(self) -> None:
        """One prompt through the chat template and the tokenizer."""
        with self.lock:
            self._batch(["a"], GenerateOptions())

    def pieces(self, prompts: Sequence[str], voice: Voice, options: GenerateOptions) -> Iterator[tuple[int, str]]:
        """(index of the prompt, next piece of its answer), as they are written; a piece is never empty."""
        with self.lock, fitted_threads(self._size):
            writing = self._begin(prompts, voice, options)
        answers = [Answer(voice.decode, options.stop) for _ in prompts]
        while True:
            with self.lock, fitted_threads(self._size):
                new = next(writing, None)
                if new is None:
                    break
                said = [(row, self._push(answers[row], token)) for row, token in new]
                for row, _ in new:
                    if answers[row].ended:
                        writing.end(row)
            yield from ((row, piece) for row, piece in said if piece)
        with self.lock:
            rests = [answer.rest() for answer in answers]
        yield from ((row, piece) for row, piece in enumerate(rests) if piece)

    def _begin(self, prompts: Sequence[str], voice: Voice, options: GenerateOptions) -> Writing:
        """The prompts are read, with the adapter that answers."""
        batch, room = self._batch(prompts, options)
        pick = Sampler(options.temperature, options.top_p, options.seed) if options.temperature > 0 else best
        if self._model.chosen != voice.capability:  # choosing anew would drop the weights that were computed for it
            self._model.choose(voice.capability, allow_isolated=voice.isolated)
        try:
            return Writing(self._model, batch, room, self._over, pick)
        finally:
            if voice.isolated:
                self._model.choose(None)

    def _batch(self, prompts: Sequence[str], options: GenerateOptions) -> tuple[dict[str, Any], int]:
        """The padded prompts, as they are when the capability is verified, and the room for answers."""
        cut = self.truncated
        rows = self._rows([Sample("", prompt, "") for prompt in prompts], room=options.max_new_tokens)
        if not all(rows):
            raise UsageError("the prompt is empty", "say something")
        if self.truncated > cut:
            log.warning(
                "a prompt is longer than the %d tokens that this model reads: its beginning was cut", self._limit
            )
        batch = self._pad(rows)
        return batch, max(1, min(options.max_new_tokens, self._limit - batch["input_ids"].shape[1]))

    def _push(self, answer: Answer, token: int) -> str:
        return "" if token in self._over else answer.push(token)
