"""A resident transformers causal LM as a `Teacher`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from nexus_core.hf.blocks import find_blocks
from nexus_core.hf.quiet import quiet
from nexus_core.types import Detection, GenerateOptions, ModelSource, Sample, Teacher


class HFTeacher(Teacher):
    """Wraps a loaded model and its own tokenizer. Batches are left-padded, so that generation continues the prompt."""

    def __init__(
        self, source: ModelSource, detection: Detection, model: Any, tokenizer: Any, unused: Sequence[str] = ()
    ) -> None:
        self.source = source
        self.detection = detection
        self.unused = tuple(unused)  # checkpoint tensors that this architecture does not have, by name
        self._model = model.eval().requires_grad_(False)
        self._tokenizer = tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            # Padding is masked out, so any id serves; eos is the only one that every tokenizer has.
            self._tokenizer.pad_token = self._tokenizer.eos_token
        self._blocks = find_blocks(model)
        self._limit = _context(model, tokenizer)
        self.truncated = 0  # prompts so far that were longer than the context and lost their beginning

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

    def prompt_text(self, sample: Sample) -> str:
        """The prompt as this checkpoint wants it: through its chat template if it has one."""
        if not getattr(self._tokenizer, "chat_template", None):
            return sample.prompt
        messages = [{"role": "user", "content": sample.prompt}]
        text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return text

    def encode(self, samples: Sequence[Sample]) -> dict[str, torch.Tensor]:
        templated = bool(getattr(self._tokenizer, "chat_template", None))
        with quiet():  # the tokenizer warns of long prompts; they are counted and cut below
            rows = self._tokenizer(
                [self.prompt_text(sample) for sample in samples],
                # A chat template writes the special tokens itself; adding them again would double the first one.
                add_special_tokens=not templated,
                return_attention_mask=False,
                return_token_type_ids=False,
            )["input_ids"]
        self.truncated += sum(len(row) > self._limit for row in rows)
        # The end of a prompt holds the question, so what is too long loses its beginning.
        batch = self._tokenizer.pad({"input_ids": [row[-self._limit :] for row in rows]}, return_tensors="pt")
        return {name: tensor.to(self._model.device) for name, tensor in batch.items()}

    @torch.inference_mode()
    def forward(self, batch: Mapping[str, torch.Tensor]) -> Any:
        return self._model(**batch)

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        """Answers in the order of `samples`; batches are built by prompt length so that little is spent on padding."""
        torch.manual_seed(options.seed)
        order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
        answers: dict[int, str] = {}
        for start in range(0, len(order), options.batch_size):
            chosen = order[start : start + options.batch_size]
            texts = self._generate_batch([samples[i] for i in chosen], options)
            answers.update(zip(chosen, texts, strict=True))
        return [answers[i] for i in range(len(samples))]

    @torch.inference_mode()
    def _generate_batch(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        batch = self.encode(samples)
        sampling = options.temperature > 0
        settings: dict[str, Any] = {"temperature": options.temperature, "top_p": options.top_p} if sampling else {}
        if options.stop:
            settings |= {"stop_strings": list(options.stop), "tokenizer": self._tokenizer}
        with quiet():  # transformers warns when prompt and answer together pass the context
            output = self._model.generate(
                **batch,
                max_new_tokens=options.max_new_tokens,
                do_sample=sampling,
                pad_token_id=self._tokenizer.pad_token_id,
                **settings,
            )
        answers = self._tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        return [_cut(answer, options.stop) for answer in answers]


def _context(model: Any, tokenizer: Any) -> int:
    """Tokens that this checkpoint was made for; without a statement of it there is no limit to enforce."""
    stated = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    return int(stated or tokenizer.model_max_length)


def _cut(answer: str, stop: Sequence[str]) -> str:
    """Everything before the first stop string; generation ends a batch only when its last row has met one."""
    ends = [position for text in stop if (position := answer.find(text)) >= 0]
    return answer[: min(ends)] if ends else answer
