"""A tiny student with trained-looking adapters and a byte-level tokenizer, and a bundle of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from nexus_core.bundle.manifest import OptionFacts, ResultFacts, TeacherFacts
from nexus_core.bundle.writer import BundleParts, CapabilityParts, write_files
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch, TowerArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.types import Contract, Direction, Thresholds

VOCABULARY = 320
TEXT = ["The answer is 42.", "def add(a, b):\n    return a + b\n", "What is 3 + 4? Think in steps.", "it's a list"] * 4
TEMPLATE = (
    "{% for message in messages %}<|user|>{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
DELTAS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
ADAPTERS = (
    AdapterArch("reasoning", "text", "zoo-reasoning", (Site(0, 4, "a"), Site(1, 5, "b")), 3, DELTAS),
    AdapterArch("tools", "text", "zoo-tools", (Site(1, 6, "c"),), 2, ("v_proj", "down_proj")),
    AdapterArch("secret", "text", "zoo-math", (Site(0, 4, "d"),), 2, ("up_proj",), isolated=True),
)


def byte_level(pattern: pre_tokenizers.PreTokenizer | None = None) -> PreTrainedTokenizerFast:
    """GPT-2's way to cut text unless another is given."""
    tokenizer = Tokenizer(models.BPE())
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = whole if pattern is None else pre_tokenizers.Sequence([pattern, whole])
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>", chat_template=TEMPLATE
    )


def make_student(tokenizer: Any, **backbone: Any) -> Student:
    """Random, and moved away from where adapters start: everything that an export carries is felt in the logits."""
    plan = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": 0.2,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 1,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        **backbone,
    }
    towers, router = (TowerArch("text", 16),), RouterArch(("reasoning", "tools"), 64, 4, 1)
    arch = StudentArch(1, "tiny", 42, plan, "random", ADAPTERS, towers, router, ())
    model = NexusForCausalLM.from_backbone(None, arch)
    generator = torch.Generator().manual_seed(7)
    pieces = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    legible = torch.tensor([i for i, piece in enumerate(pieces) if piece.isascii() and i > 3])
    with torch.no_grad():
        head = model.lm_head.weight.clone()
        model.lm_head.weight.zero_()  # an answer is text: half a character is shown in one way here, in another there
        model.lm_head.weight[legible] = head[legible]
        for name, parameter in model.adapters.named_parameters():
            parameter.add_(0.6 if name.endswith("gate") else torch.randn(parameter.shape, generator=generator) * 0.1)
    return Student(model, tokenizer, arch)


def make_bundle(out: Path, retain_fraction: float | None, minimum: float | None) -> Path:
    """A bundle whose contracts ask for this share of a teacher that scored 0.5, or for this minimum only."""
    student = make_student(byte_level())
    contract = Contract(
        "reasoning",
        "pack",
        "exact_answer",
        Direction.HIGHER,
        retain_fraction,
        minimum,
        1,
        64,
        Thresholds(0.1, 0.05),
    )
    result, options = ResultFacts(0.0, 0.5, 0.0, 3, None, "pass"), OptionFacts(16, ())
    parts = {
        a.capability: CapabilityParts(replace(contract, capability=a.capability), result, options) for a in ADAPTERS
    }
    teachers = (TeacherFacts("zoo-reasoning", None, "MIT", "taught"),)
    write_files(out, BundleParts(student, parts, {"seed": 42, "verdict": "pass"}, teachers))
    return out
