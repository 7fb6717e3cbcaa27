"""A resident transformers causal LM as a `Teacher`."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nexus_core.hf.blocks import find_blocks
from nexus_core.hf.prefix import Prefix, continue_with, prefill
from nexus_core.hf.spans import prompt_spans
from nexus_core.hf.text import TextModel
from nexus_core.hf.threads import fitted_threads
from nexus_core.types import Detection, GenerateOptions, ModelSource, Sample, Teacher


class HFTeacher(TextModel, Teacher):
    """Wraps a loaded model and its own tokenizer. Batches are left-padded, so that generation continues the prompt."""

    def __init__(
        self, source: ModelSource, detection: Detection, model: Any, tokenizer: Any, unused: Sequence[str] = ()
    ) -> None:
        super().__init__(model.eval().requires_grad_(False), tokenizer, str(source.path))
        self.source = source
        self.detection = detection
        self.unused = tuple(unused)  # checkpoint tensors that this architecture does not have, by name
        self._blocks = find_blocks(model)
        self._counts_positions = "position_ids" in inspect.signature(model.forward).parameters

    @property
    def model(self) -> nn.Module:
        module: nn.Module = self._model
        return module

    @property
    def processor(self) -> Any:
        return self._tokenizer

    @property
    def blocks(self) -> Mapping[str, nn.Module]:
        return self._blocks

    def encode(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        return self._pad(self._rows(samples, room=0))

    def encode_answers(
        self, samples: Sequence[Sample], answers: Sequence[Sequence[int]], options: GenerateOptions
    ) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Prompts followed by answer tokens, and the mask (B, T) of the positions whose logits predict them."""
        prompts = self._rows(samples, room=options.max_new_tokens)
        batch = self._pad([[*prompt, *answer] for prompt, answer in zip(prompts, answers, strict=True)])
        length = batch["input_ids"].shape[1]
        mask = torch.zeros(len(samples), length, dtype=torch.bool, device=self._model.device)
        for row, answer in enumerate(answers):
            mask[row, length - 1 - len(answer) : length - 1] = True  # left padding: answers end at the right edge
        return batch, mask

    def prompt_spans(self, samples: Sequence[Sample], options: GenerateOptions) -> list[list[tuple[int, int]]] | None:
        """Which characters of `sample.prompt` each prompt token of `encode_answers` is; (0, 0) if of none (a template's).

        None where the tokenizer keeps no account of it.
        """
        found = prompt_spans(self._tokenizer, self.prompt_text, samples)
        limit = self._prompt_limit(options.max_new_tokens)
        return None if found is None else [row[-limit:] for row in found]

    def prefill(self, samples: Sequence[Sample], options: GenerateOptions) -> Prefix | None:
        """The prompts as read by the model, to be shared by many answers; None if it cannot share them."""
        return prefill(self._model, self._pad(self._rows(samples, room=options.max_new_tokens)))

    def continue_answers(
        self, prefix: Prefix, copies: int, answers: Sequence[Sequence[int]]
    ) -> tuple[dict[str, Any], torch.Tensor]:
        """Inputs for `copies` times these answers to the prompts of `prefix`, and the mask of the answer positions."""
        return continue_with(self._model, prefix, copies, answers, int(self._tokenizer.pad_token_id))

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        with fitted_threads(self._size):
            return self._forward(batch)

    def _forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        if self._counts_positions and "attention_mask" in batch and "position_ids" not in batch:
            # Learned positions count from the first real token. `generate` sees to that; a plain forward would count
            # the padding too, and a batch would not equal its rows.
            positions = (batch["attention_mask"].long().cumsum(-1) - 1).clamp(min=0)
            return self._model(**batch, position_ids=positions)
        return self._model(**batch)
