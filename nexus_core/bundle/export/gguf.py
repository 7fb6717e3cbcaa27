"""One GGUF file: the student as a plain Llama, in the names, the order of channels and the tokenizer that llama.cpp knows.

Source: llama.cpp's own conversion of Llama checkpoints. Its RoPE turns neighbouring channels where transformers turns
channel i with channel i + e/2, so the rows of the query and key projections are put in that order.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.bundle.export.files import rounded
from nexus_core.bundle.export.plain import as_plain
from nexus_core.errors import ModelError, UsageError
from nexus_core.student import assemble
from nexus_core.student.files import Student

if TYPE_CHECKING:
    from gguf import GGUFWriter

DTYPES = ("fp16", "fp32")
INSTALL = "pip install 'nexus-core[gguf]'"


@dataclass(frozen=True, slots=True)
class Form:
    """Precision of the matrices, and llama.cpp's name for a way to cut text before byte pairs are merged."""

    dtype: str
    rule: str


def write_gguf(path: Path, student: Student, capability: str | None, form: Form, allow_isolated: bool = False) -> None:
    """The file `path`."""
    model = rounded(as_plain(student.model, capability, allow_isolated), form.dtype)
    _write(path, model, student.tokenizer, form.rule)


def write_vocabulary(path: Path, tokenizer: Any, rule: str) -> None:
    """The tokenizer, in the smallest model that an engine loads: for trying how it cuts text."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=1,
        tie_word_embeddings=True,
    )
    with assemble.apart():
        model = LlamaForCausalLM(config).to(torch.float16)
    _write(path, model, tokenizer, rule)


def _new_writer(path: Path) -> GGUFWriter:
    """Of a file in Llama's layout."""
    try:
        from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter
    except ImportError as error:
        raise UsageError("the package gguf is missing", INSTALL) from error
    return GGUFWriter(path, MODEL_ARCH_NAMES[MODEL_ARCH.LLAMA])


def _write(path: Path, model: LlamaForCausalLM, tokenizer: Any, rule: str) -> None:
    writer = _new_writer(path)
    _settings(writer, model)
    _write_tokenizer(writer, tokenizer, model.config.vocab_size, rule)
    for name, tensor in _tensors(model):
        # Vectors stay in fp32: the engine has no other arithmetic for norms and biases, and they are small.
        writer.add_tensor(name, (tensor.float() if tensor.dim() == 1 else tensor).contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _settings(writer: GGUFWriter, model: LlamaForCausalLM) -> None:
    from gguf import LlamaFileType, RopeScalingType

    config = model.config
    size = config.head_dim
    writer.add_file_type(LlamaFileType.ALL_F32 if model.dtype is torch.float32 else LlamaFileType.MOSTLY_F16)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(size)
    writer.add_value_length(size)
    writer.add_rope_dimension_count(size)
    rope = config.rope_parameters
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    elif rope["rope_type"] != "default":
        raise UsageError(
            f'positions of the kind "{rope["rope_type"]}" are not written to GGUF', "export it with --to hf"
        )


def _tensors(model: LlamaForCausalLM) -> Iterator[tuple[str, torch.Tensor]]:
    from gguf import MODEL_ARCH, get_tensor_name_map

    config = model.config
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue  # the engine takes the embeddings
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if theirs is None:
            raise ModelError(f"{name} has no place in a GGUF file", "export it with --to hf")
        count = heads.get(name.split(".")[-2])
        yield theirs, tensor if count is None else _neighbours(tensor, count)


def _neighbours(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """In each head, rows i and i + e/2 side by side. rows (heads * e, ...)."""
    size = len(rows) // heads
    return rows.view(heads, 2, size // 2, *rows.shape[1:]).transpose(1, 2).reshape(rows.shape)


# --- the tokenizer ----------------------------------------------------------------------------------------------


def _write_tokenizer(writer: GGUFWriter, tokenizer: Any, size: int, rule: str) -> None:
    """`size` tokens of a byte-level BPE with its merges, special tokens and chat template. Another kind is an error."""
    model = _byte_level(tokenizer)
    kinds = _kinds(tokenizer, model["vocab"])
    tokens = {number: text for text, number in {**model["vocab"], **tokenizer.get_added_vocab()}.items()}
    from gguf import TokenType

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list([tokens.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types([kinds.get(number, TokenType.UNUSED) for number in range(size)])
    writer.add_token_merges([pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]])
    for name in ("bos", "eos", "pad"):
        number = getattr(tokenizer, f"{name}_token_id")
        if number is not None:
            getattr(writer, f"add_{name}_token_id")(number)
    writer.add_add_bos_token(False)  # a chat template writes it where it is wanted
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _byte_level(tokenizer: Any) -> dict[str, Any]:
    """The model of tokenizer.json."""
    text = getattr(tokenizer, "backend_tokenizer", None)
    whole: dict[str, Any] = json.loads(text.to_str()) if text is not None else {}
    model: dict[str, Any] = whole.get("model") or {}
    decodes = "ByteLevel" in json.dumps(whole.get("decoder"))
    # llama.cpp refuses a file whose tokenizer merges nothing.
    if model.get("type") != "BPE" or not model["merges"] or not decodes or whole.get("normalizer"):
        raise UsageError(
            "the student's tokenizer is no plain byte-level BPE, which is the kind that is written to GGUF",
            "export it with --to hf",
        )
    return model


def _kinds(tokenizer: Any, vocab: dict[str, int]) -> dict[int, int]:
    from gguf import TokenType

    kinds: dict[int, int] = dict.fromkeys(vocab.values(), TokenType.NORMAL)
    for number, token in tokenizer.added_tokens_decoder.items():
        kinds[number] = TokenType.CONTROL if token.special else TokenType.USER_DEFINED
    return kinds
