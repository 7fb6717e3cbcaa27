"""Tokenizers that disagree on numerals, and teachers that are a list of answers with probabilities."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nexus_core.distill.vocabulary import Vocabulary, read_vocabulary
from nexus_core.profiling.cache import LogitCodec, TeacherSignal, byte_offsets

TEMPLATE = "{% for m in messages %}<user>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<bot>{% endif %}"
WORDS = [
    *["the", "answer", "is", "and", "other", "then", "they", "there", "cost", "of", "naïve", "café"],
    *["total", "sum", "minus", "plus", "number", "in", "all"],
]


def corpus(seed: int, rows: int = 400) -> list[str]:
    rng = random.Random(seed)
    return [
        f"{' '.join(rng.choices(WORDS, k=6))} {rng.randrange(100):02d}+{rng.randrange(100):02d}={rng.randrange(200)}\n"
        for _ in range(rows)
    ]


def bpe(size: int, split_digits: bool, seed: int, reverse: bool = False) -> Vocabulary:
    """A byte-level BPE, trained here. `reverse` turns its ids round, so that an id of another one means another token."""
    backend = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False)
    digits = pre_tokenizers.Digits(individual_digits=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([digits, level]) if split_digits else level
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<end>", "<user>", "<bot>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(corpus(seed), trainer)
    return wrap(backend, reverse)


def pairs(reverse: bool = False) -> Vocabulary:
    """Bytes, and all numbers of two digits: the numeral case at its plainest."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [(a, b) for a in "0123456789" for b in "0123456789"]
    specials = ["<pad>", "<end>", "<user>", "<bot>"]
    tokens = [*specials, *alphabet, *(a + b for a, b in merges)]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(specials)
    return wrap(backend, reverse)


def wrap(backend: Tokenizer, reverse: bool) -> Vocabulary:
    if reverse:
        import json

        rules = json.loads(backend.to_str())
        last = len(rules["model"]["vocab"]) - 1
        rules["model"]["vocab"] = {token: last - i for token, i in rules["model"]["vocab"].items()}
        for token in rules["added_tokens"]:
            token["id"] = last - token["id"]
        backend = Tokenizer.from_str(json.dumps(rules))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<end>", additional_special_tokens=["<user>", "<bot>"]
    )
    tokenizer.chat_template = TEMPLATE
    return read_vocabulary(tokenizer)


@dataclass(frozen=True)
class World:
    """A teacher that knows exactly which answers it may give: its next-token distributions follow from them."""

    teacher: Vocabulary
    answers: Mapping[str, float]  # text -> probability

    def tokens(self, text: str) -> list[int]:
        return [*self.teacher.encode([text])[0], self.teacher.end]

    def following(self, begun: list[int]) -> dict[int, float]:
        """P(next token | these tokens)."""
        masses: dict[int, float] = {}
        for text, p in self.answers.items():
            tokens = self.tokens(text)
            if tokens[: len(begun)] == begun and len(tokens) > len(begun):
                masses[tokens[len(begun)]] = masses.get(tokens[len(begun)], 0.0) + p
        total = sum(masses.values())
        return {token: p / total for token, p in masses.items()}

    def signal(self, text: str, prompt: str = "q", ended: bool = True) -> TeacherSignal:
        tokens = self.tokens(text)[: None if ended else -1]
        rows = np.full((len(tokens), len(self.teacher.tokens)), -np.inf, np.float32)
        for t in range(len(tokens)):
            for token, p in self.following(tokens[:t]).items():
                rows[t, token] = np.log(p)
        codec = LogitCodec(rows.shape[1])
        ends = [
            len(self.teacher.tokenizer.decode(tokens[: t + 1], skip_special_tokens=True)) for t in range(len(tokens))
        ]
        ends = np.maximum.accumulate(np.minimum(ends, len(text))).tolist()
        spans = list(zip([0, *ends[:-1]], ends, strict=True))
        ids = np.array(tokens, np.int32)
        return TeacherSignal("0" * 64, prompt, text, ids, byte_offsets(text, spans), codec.encode(rows), codec)


@pytest.fixture(scope="session")
def vocabularies() -> dict[str, Vocabulary]:
    """Digits split or merged in pairs or by training; small and large; with ids that mean something else elsewhere."""
    return {
        "split": bpe(330, True, 1),
        "split_large": bpe(420, True, 2, reverse=True),
        "merged": bpe(420, False, 3, reverse=True),
        "pairs": pairs(reverse=True),
        "bytes": bpe(260, True, 4),
    }


@pytest.fixture(scope="session")
def world() -> Callable[[Vocabulary, Mapping[str, float]], World]:
    return World
