"""Tokenizers and batches. A sample becomes `<|user|>prompt<|assistant|>target<|end|>`, as chat templates do."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from nexus_core.errors import DataError
from nexus_core.types import CapabilityMetric, Sample, SampleRequest, Split
from nexus_teacher_zoo.recipes.recipe import Recipe, Stage, TokenizerSpec

if TYPE_CHECKING:
    import torch

PAD, END, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"
TASK_CHARACTERS = 1_500_000  # of each task and of the corpus, for a tokenizer of several
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    + ASSISTANT
    + "{{ message['content'] }}"
    + END
    + "{% else %}"
    + USER
    + "{{ message['content'] }}{% endif %}{% endfor %}{% if add_generation_prompt %}"
    + ASSISTANT
    + "{% endif %}"
)


def capability_of(name: str) -> CapabilityMetric:
    """The capability pack called `name`, through the public facade."""
    from nexus_core.plugins import Plugins

    return Plugins([name]).capability_metric(name)


def train_tokenizer(spec: TokenizerSpec, texts: Iterable[str]) -> Any:
    """A byte-level BPE with the zoo's special tokens and chat template."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    byte_level: Any = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=spec.pattern is None)
    if spec.pattern is not None:
        byte_level = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(spec.pattern), "isolated"), byte_level])
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level]) if spec.split_digits else byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=spec.vocab_size,
        special_tokens=[PAD, END, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END, padding_side="left")
    fast.chat_template = CHAT_TEMPLATE
    return fast


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids, and the loss weight of predicting each of them."""

    ids: torch.Tensor  # (B, T)
    weights: torch.Tensor  # (B, T) float32


@dataclass(slots=True)
class TaskBatches:
    """Endless length-bucketed batches of a capability's train split; `stage` may be changed between batches."""

    metric: CapabilityMetric
    tokenizer: Any
    recipe: Recipe
    skipped: int = 0

    def pools(self, stage: Stage) -> Iterator[list[Sample]]:
        """Endless pools of samples of one stage, before encoding."""
        request = SampleRequest(Split.TRAIN, seed=self.recipe.seed, data=stage.data)
        wanted = (s for s in self.metric.samples(request) if _in_stage(s, stage))
        while pool := list(islice(wanted, self.recipe.training.pool)):
            yield pool

    def batches(self, stage: Stage) -> Iterator[Batch]:
        """Endless batches of one stage."""
        shuffle = random.Random(self.recipe.seed)
        for pool in self.pools(stage):
            yield from self._bucket(pool, shuffle)
        raise DataError(f"{self.recipe.name}: the train split ended", "a recipe needs an endless train split")

    def _bucket(self, pool: Sequence[Sample], shuffle: random.Random) -> Iterator[Batch]:
        spec = self.recipe.training
        rows = sorted(self._encode(pool), key=lambda row: len(row[0]) + len(row[1]))
        cuts: list[list[tuple[list[int], list[int]]]] = [[]]
        for row in rows:
            length = len(row[0]) + len(row[1])
            if cuts[-1] and (len(cuts[-1]) + 1) * length > spec.batch_tokens:
                cuts.append([])
            cuts[-1].append(row)
        if len(cuts) > 1:
            cuts.pop()  # the rest of the pool: an odd, small batch of the longest rows would be noise
        shuffle.shuffle(cuts)
        yield from (collate(rows, self.tokenizer.pad_token_id, spec.prompt_weight) for rows in cuts if rows)

    def _encode(self, pool: Sequence[Sample]) -> Iterator[tuple[list[int], list[int]]]:
        core = self.tokenizer.backend_tokenizer
        core.no_padding()  # a batch that was padded while evaluating would leave padding switched on
        prompts = core.encode_batch([f"{USER}{s.prompt}{ASSISTANT}" for s in pool], add_special_tokens=False)
        targets = core.encode_batch([f"{s.target}{END}" for s in pool], add_special_tokens=False)
        for prompt, target in zip(prompts, targets, strict=True):
            if len(prompt.ids) + len(target.ids) > self.recipe.training.max_tokens:
                self.skipped += 1
                continue
            yield prompt.ids, target.ids


def collate(rows: Sequence[tuple[list[int], list[int]]], pad: int, prompt_weight: float) -> Batch:
    """Right-pad rows of (prompt ids, target ids). Causal attention never sees the padding, so no mask is needed."""
    import torch

    width = max(len(prompt) + len(target) for prompt, target in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for i, (prompt, target) in enumerate(rows):
        end = len(prompt) + len(target)
        ids[i, :end] = torch.tensor(prompt + target)
        weights[i, : len(prompt)] = prompt_weight
        weights[i, len(prompt) : end] = 1.0
    return Batch(ids, weights)


def task_texts(metric: CapabilityMetric, recipe: Recipe) -> Iterator[str]:
    """Prompts and targets of the train split, for training a tokenizer."""
    request = SampleRequest(Split.TRAIN, n=recipe.tokenizer.train_samples, seed=recipe.seed)
    for sample in metric.samples(request):
        yield sample.prompt
        yield sample.target


def tokenizer_texts(recipe: Recipe, corpus: Iterable[str]) -> Iterator[str]:
    """What a backbone's tokenizer is trained on: the corpus and, where tasks are named, as many characters of each."""
    if not recipe.tokenizer.tasks:
        yield from corpus
        return
    documents = list(corpus)
    random.Random(recipe.seed).shuffle(documents)
    yield from _up_to(TASK_CHARACTERS, documents)
    for name in recipe.tokenizer.tasks:
        yield from _up_to(TASK_CHARACTERS, task_texts(capability_of(name), recipe))


def _up_to(characters: int, texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        characters -= len(text)
        if characters < 0:
            return
        yield text


def _in_stage(sample: Sample, stage: Stage) -> bool:
    fits = stage.max_chars is None or len(sample.prompt) <= stage.max_chars
    return fits and (not stage.strata or sample.stratum in stage.strata)
