"""Tiny real models, built from a config and seeded, for tests and for a plugin's fixtures. Imports torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nexus_core.hf.quiet import quiet

# Sizes that every decoder family understands; a family with other names for them gets these and its own `extra`.
SMALL: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
}


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token per byte, and three special tokens: a true tokenizer that needs no training and loses nothing."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    specials = ["<pad>", "<s>", "</s>"]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(specials + alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>", model_max_length=128
    )


def save_causal_lm(directory: Path, model_type: str = "llama", seed: int = 42, **extra: Any) -> Path:
    """A random causal LM of `model_type` with a byte tokenizer, saved in the layout that transformers writes."""
    tokenizer = byte_tokenizer()
    config_class = CONFIG_MAPPING[model_type]
    known = {**SMALL, "vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **extra}
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config_class(**known)).eval()
    with quiet():
        model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def rename_model_type(directory: Path, model_type: str) -> Path:
    """Make a checkpoint look like one of an architecture that transformers does not know."""
    path = directory / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**config, "model_type": model_type}), encoding="utf-8")
    return directory
