"""A causal LM and its tokenizer, whoever they belong to: prompts in, answers out, in batches that waste little."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import GenerationConfig

from nexus_core.hf.prompts import prompt_text
from nexus_core.hf.quiet import quiet
from nexus_core.hf.threads import fitted_threads
from nexus_core.types import GenerateOptions, Sample


class TextModel:
    """Batches are left-padded, so that generation continues the prompt. `where` is the model's name in messages."""

    def __init__(self, model: Any, tokenizer: Any, where: str) -> None:
        self._where = where
        self._model = model
        self._model.generation_config = _measuring(model.generation_config)
        self._tokenizer = tokenizer
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            # Padding is masked out, so any id serves; nearly every tokenizer has an eos.
            self._tokenizer.pad_token = self._tokenizer.eos_token or self._tokenizer.convert_ids_to_tokens(0)
        self._size = sum(parameter.numel() for parameter in model.parameters())
        self._limit = _context(model, tokenizer)
        self.truncated = 0  # prompts so far that were longer than the context and lost their beginning

    def prompt_text(self, sample: Sample) -> str:
        """The prompt as this checkpoint wants it: through its chat template if it has one."""
        return prompt_text(self._tokenizer, sample.prompt, self._where)

    def generate(self, samples: Sequence[Sample], options: GenerateOptions) -> list[str]:
        """Answers in the order of `samples`; batches are built by prompt length so that little is spent on padding."""
        order = sorted(range(len(samples)), key=lambda i: len(samples[i].prompt))
        answers: dict[int, str] = {}
        devices = [self._model.device] if self._model.device.type == "cuda" else []
        with torch.random.fork_rng(devices):  # the seed is this call's; the caller's random state comes back
            torch.manual_seed(options.seed)
            for start in range(0, len(order), options.batch_size):
                chosen = order[start : start + options.batch_size]
                tokens = self.generate_tokens([samples[i] for i in chosen], options)
                answers.update(zip(chosen, self.decode_tokens(tokens, options), strict=True))
        return [answers[i] for i in range(len(samples))]

    @torch.inference_mode()
    def generate_tokens(
        self,
        samples: Sequence[Sample],
        options: GenerateOptions,
        begun: Sequence[Sequence[int]] | None = None,
        most: int | None = None,
    ) -> list[list[int]]:
        """Answer tokens of one batch, up to and with the end token.

        `begun` are the first tokens of each answer. `most` ends answers earlier than `options.max_new_tokens` does (and
        leaves the prompts as they are); both count what was begun.
        """
        most = min(most or options.max_new_tokens, options.max_new_tokens)
        begun = begun or [[] for _ in samples]
        rows = self._rows(samples, room=options.max_new_tokens)
        batch = self._pad([[*row, *start] for row, start in zip(rows, begun, strict=True)])
        length = batch["input_ids"].shape[1]
        room = max(1, min(most - min(map(len, begun)), self._limit - length))
        with quiet(), fitted_threads(self._size):
            new = [self._until_end(row) for row in self._continue(batch, room, options)]
        return [[*start, *row][:most] for start, row in zip(begun, new, strict=True)]

    def _continue(self, batch: Mapping[str, torch.Tensor], room: int, options: GenerateOptions) -> list[list[int]]:
        """At most `room` new tokens for each row; what follows a row's end is padding."""
        sampling = options.temperature > 0
        settings: dict[str, Any] = {}
        if sampling:  # top_k=0: all of the vocabulary, where transformers would take the 50 likeliest
            settings = {"temperature": options.temperature, "top_p": options.top_p, "top_k": 0}
        if options.stop:
            settings |= {"stop_strings": list(options.stop), "tokenizer": self._tokenizer}
        output = self._model.generate(
            **batch,
            max_new_tokens=room,
            do_sample=sampling,
            pad_token_id=self._tokenizer.pad_token_id,
            **settings,
        )
        rows: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
        return rows

    def answer_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Texts as answers of this model: its tokens for each, and the token that ends an answer if it has one."""
        rows = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        return [[*row, *sorted(self._ends())[:1]] for row in rows]

    def decode_tokens(self, tokens: Sequence[Sequence[int]], options: GenerateOptions) -> list[str]:
        """Texts of answers, without special tokens and without what follows a stop string."""
        texts = self._tokenizer.batch_decode([list(row) for row in tokens], skip_special_tokens=True)
        return [_cut(text, options.stop) for text in texts]

    def _rows(self, samples: Sequence[Sample], room: int) -> list[list[int]]:
        """Prompt tokens. What does not fit the context loses its beginning: the question stands at the end."""
        rows: list[list[int]] = self._tokenized(samples)["input_ids"]
        limit = self._prompt_limit(room)
        self.truncated += sum(len(row) > limit for row in rows)
        return [row[-limit:] for row in rows]

    def _tokenized(self, samples: Sequence[Sample], **more: Any) -> Any:
        templated = bool(getattr(self._tokenizer, "chat_template", None))
        with quiet():  # the tokenizer warns of long prompts; they are counted and cut here
            return self._tokenizer(
                [self.prompt_text(sample) for sample in samples],
                # A chat template writes the special tokens itself; adding them again would double the first one.
                add_special_tokens=not templated,
                return_attention_mask=False,
                return_token_type_ids=False,
                **more,
            )

    def _prompt_limit(self, room: int) -> int:
        """An answer may be allowed more room than it will need, so at least half of the context is the prompt's."""
        return max(self._limit // 2, self._limit - room)

    def _pad(self, rows: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        batch = self._tokenizer.pad({"input_ids": [list(row) for row in rows]}, return_tensors="pt")
        return {name: tensor.to(self._model.device) for name, tensor in batch.items()}

    def _until_end(self, row: list[int]) -> list[int]:
        """Generation pads a finished row until its batch ends; a row may also have ended at a stop string."""
        ends = self._ends()
        for position, token in enumerate(row):
            if token in ends:
                return row[: position + 1]
            if token == self._tokenizer.pad_token_id:
                return row[:position]
        return row

    def _ends(self) -> set[int]:
        """The tokens that end an answer."""
        ends = self._model.generation_config.eos_token_id
        return set(ends if isinstance(ends, list) else [] if ends is None else [ends])


def _context(model: Any, tokenizer: Any) -> int:
    """Tokens that this checkpoint was made for; without a statement of it there is no limit to enforce."""
    stated = getattr(model.config, "max_position_embeddings", None) or getattr(model.config, "n_positions", None)
    return int(stated or tokenizer.model_max_length)


def _measuring(preferred: GenerationConfig) -> GenerationConfig:
    """The checkpoint's special tokens without its taste (do_sample, top_k, repetition_penalty): options alone decide."""
    names = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id")
    return GenerationConfig(**{name: getattr(preferred, name) for name in names})


def _cut(answer: str, stop: Sequence[str]) -> str:
    """Everything before the first stop string; generation ends a batch only when its last row has met one."""
    ends = [position for text in stop if (position := answer.find(text)) >= 0]
    return answer[: min(ends)] if ends else answer
