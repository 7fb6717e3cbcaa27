"""What alignment is for: a teacher with one tokenizer teaches students with the same and with others, numerals included.

Each key has three answers, of which the teacher knows how likely they are and the data shows a few draws. The likeliest
one is what a student should answer; draws alone often show another one more often.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.distill.align import Aligner, AlignSettings
from nexus_core.distill.batches import collate
from nexus_core.distill.losses import OutputLoss
from nexus_core.distill.rows import Room, RowBuilder

KEYS = "abcdefghijklmnop"
CHANCES = (0.5, 0.3, 0.2)
DRAWS, STEPS = 4, 150
ROOM = Room(64, 16)
WITH, WITHOUT = OutputLoss(0.2, 1.0, 1.0, 0.0, 0.0), OutputLoss(1.0, 0.0, 1.0, 0.0, 0.0)


def lessons(seed):
    """By key: its answers, the likeliest first, and which of them the data shows."""
    rng = np.random.default_rng(seed)
    found = {}
    for key in KEYS:
        numbers = rng.choice(np.arange(10, 100), 3, replace=False)
        found[key] = ([f"={number}" for number in numbers], rng.choice(3, DRAWS, p=CHANCES))
    return found


def rows(teacher, student, taught, world):
    builder = RowBuilder(Aligner(teacher, student, AlignSettings(16, 1e-4)), (), ROOM)
    signals = []
    for key, (answers, draws) in taught.items():
        known = world(teacher, dict(zip(answers, CHANCES, strict=True)))
        signals += [known.signal(answers[i], key) for i in draws]
    return builder.rows(signals)


def taught_by(loss, batch, size):
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=1,
            num_key_value_heads=1,
            pad_token_id=0,
            initializer_range=0.15,
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits[batch.answer]
        optimizer.zero_grad()
        loss(logits, batch).total.backward()
        optimizer.step()
    return model


@torch.inference_mode()
def right(model, student, taught, built):
    """Share of the keys that are answered with their likeliest answer."""
    score = 0
    for i, (answers, _) in enumerate(taught.values()):
        ids = built[i * DRAWS].prompt_ids.tolist()
        said: list[int] = []
        while len(said) < 6 and student.end not in said:
            said.append(int(model(torch.tensor([ids + said])).logits[0, -1].argmax()))
        score += student.text(said) == answers[0].encode() and said[-1] == student.end
    return score / len(taught)


@pytest.fixture(scope="module")
def score(vocabularies, world):
    taught = lessons(1)

    def of(teacher, student, loss):
        built = rows(vocabularies[teacher], vocabularies[student], taught, world)
        model = taught_by(loss, collate(built), len(vocabularies[student].tokens))
        return right(model, vocabularies[student], taught, built)

    return of


def test_whole_numbers_are_learnt_from_split_ones_as_from_whole_ones(score):
    alone, same, other = score("pairs", "pairs", WITHOUT), score("pairs", "pairs", WITH), score("split", "pairs", WITH)
    assert same > 0.85 and other > same - 0.15
    assert other > alone + 0.2  # the draws alone mislead: what the others know, they know from the teacher


@pytest.mark.slow
def test_digits_are_learnt_from_whole_numbers(score):
    """Inside a whole number there is no place for the teacher's distribution: the second digit is learnt from draws."""
    alone, same, other = score("split", "split", WITHOUT), score("split", "split", WITH), score("pairs", "split", WITH)
    assert same > 0.8 and other > same - 0.25
    assert other > alone + 0.2
