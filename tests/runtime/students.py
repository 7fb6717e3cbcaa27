"""Two tiny students. One is random, and its answers differ by adapter. The other is made by hand: each of its tokens is
followed by one other token, so that a test says exactly what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken

from nexus_core.bundle.manifest import OptionFacts, ResultFacts
from nexus_core.bundle.writer import BundleParts, CapabilityParts, write_files
from nexus_core.student.adapter import AnchoredBottleneck
from nexus_core.student.arch import AdapterArch, RouterArch, Site, StudentArch, TowerArch
from nexus_core.student.files import Student
from nexus_core.student.model import NexusForCausalLM
from nexus_core.student.router import SparseIntentRouter
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import AdapterPlan, Contract, Direction, Thresholds

BACKBONE: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ADAPTERS = (
    AdapterArch("reasoning", "text", "t1", (Site(0, 4, "a"), Site(1, 5, "b")), 3, ("q_proj", "mlp.down_proj")),
    AdapterArch("tools", "text", "t2", (Site(1, 6, "c"),), 2, ("v_proj", "gate_proj", "o_proj")),
    AdapterArch("uncensored", "text", "t3", (Site(0, 4, "d"),), 2, ("up_proj",), isolated=True),
)
OPEN = ("reasoning", "tools")
PROMPTS = ["a", "one two three", "The quick brown fox jumps over the lazy dog.", "xyz", "Zürich 東京 😀 ends"]
CALL = ["{", '"name": "get_weather"', ', "arguments": ', '{"city": "Oslo"}', "}"]
WORDS = ["The", " cat", " sat", " 😀", " on", " the END", " mat"]
BYTES = [bytes([byte]) for byte in "é漢🙂".encode()]  # characters of two, three and four tokens


def bottleneck(plan: AdapterPlan) -> AnchoredBottleneck:
    return AnchoredBottleneck(plan.hidden_size, plan.rank, plan.seed)


def planned(adapters: Sequence[AdapterArch], **backbone: Any) -> StudentArch:
    names = tuple(a.capability for a in adapters if not a.isolated)
    router = RouterArch(names, 64, 4, 1)
    return StudentArch(
        1, "tiny", 42, {**BACKBONE, **backbone}, "random", tuple(adapters), (TowerArch("text", 16),), router, ()
    )


def trained(model: NexusForCausalLM) -> NexusForCausalLM:
    """Each adapter as after some training, whatever others there are."""
    for name, adapter in model.adapters.items():
        generator = torch.Generator().manual_seed(sum(name.encode()))
        with torch.no_grad():
            for parameter in adapter.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def router_of(arch: StudentArch) -> SparseIntentRouter:
    """Takes a prompt with many digits for reasoning, and abstains elsewhere: made by hand, not trained."""
    router = SparseIntentRouter(arch.router)
    with torch.no_grad():
        router.heads.weight.zero_()
        router.heads.bias.fill_(-1.0)
        router.heads.weight[0, arch.router.width] = 2.0  # the first shallow feature: the share of digits
        router.density_floor.fill_(-torch.inf)
        router.logit_floor.fill_(0.0)
    return router.eval()


def write(folder: Path, student: Student) -> Path:
    contract = Contract("", "own", "exact_answer", Direction.HIGHER, 0.97, None, 1, 8, Thresholds(0.1, 0.05))
    result = ResultFacts(0.9, 0.9, 1.0, 10, (0.9, 1.0), "pass")
    aliases = {"tools": ("agent",)}
    parts = {
        arch.capability: CapabilityParts(
            replace(contract, capability=arch.capability), result, OptionFacts(24, ()), aliases.get(arch.capability, ())
        )
        for arch in student.arch.adapters
    }
    write_files(folder, BundleParts(student, parts, {"verdict": "pass"}))
    return folder


def random_student(adapters: Sequence[AdapterArch] = ADAPTERS) -> Student:
    arch = planned(adapters)
    model = trained(NexusForCausalLM.from_backbone(None, arch, bottleneck))
    return Student(model, byte_tokenizer(), arch, router_of(arch))


def chain_tokenizer() -> Any:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in (*CALL[1:4], *WORDS)])
    tokenizer.model_max_length = BACKBONE["max_position_embeddings"]
    return tokenizer


def chain_student(routed: bool = False) -> Student:
    """ ":" is followed by a call, "?" by words, "~" by characters of several tokens, "#" by bytes that are none."""
    tokenizer = chain_tokenizer()
    number = tokenizer.convert_tokens_to_ids
    alphabet = {
        bytes([byte]): ids[0] for byte in range(128) for ids in [tokenizer.encode(chr(byte), add_special_tokens=False)]
    }
    for text in "é漢🙂":  # each byte of them is a token of its own
        alphabet |= dict(
            zip((bytes([b]) for b in text.encode()), tokenizer.encode(text, add_special_tokens=False), strict=True)
        )
    rows = [
        [alphabet[b":"], alphabet[b"{"], *map(number, CALL[1:4]), alphabet[b"}"]],
        [alphabet[b"?"], *map(number, WORDS)],
        [alphabet[b"~"], *(alphabet[byte] for byte in BYTES)],
    ]
    follows = {a: b for row in rows for a, b in zip(row, [*row[1:], 2], strict=True)}
    size = 320
    arch = planned(ADAPTERS[:2], vocab_size=size, hidden_size=size, intermediate_size=8, tie_word_embeddings=False)
    model = NexusForCausalLM.from_backbone(None, arch, bottleneck)
    with torch.no_grad():
        for layer in model.blocks:
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for before in range(size):
            model.lm_head.weight[follows.get(before, 2), before] = 1.0
    return Student(model, tokenizer, arch, router_of(arch) if routed else None)
