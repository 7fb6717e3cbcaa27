"""Weights from which a small Llama can copy before its first step: two circuits that large language models all grow.

Trained from noise, a model of this size does not find them in the time that a CPU has (docs/log.md). So, after the
"mimetic initialisation" of Trockman and Kolter (2023), the first block starts with heads that look one, two and three tokens
back and one that looks around farther back, and the second with heads that look for what followed the present token last
time: induction (Olsson et al. 2022). No task is in it, and training is free to change all of it.
"""

from __future__ import annotations

import math
from typing import Any

EMBEDDING = 0.1  # standard deviation; at transformers' 0.02 what blocks add drowns which token it was
OUTPUT = 0.3  # of transformers' scale, for what blocks add
CONSTANT = 0.5  # share of a normalised embedding's length that is the same for all tokens: where a fixed offset is read
LOOK_BACK, LOOK_FOR = 15.0, 20.0  # lead in the scores of the place that is looked at
COPY = 4.0  # size of what induction writes, in embeddings
AROUND, WIDTH = 6, 4  # tokens back, and the distance from there at which a score has lost 1
SLOW = 5  # the faster pairs of RoPE turn with every token and can match nothing far away


def start_copying(model: Any, seed: int) -> None:
    """Rewrite the fresh weights of a `LlamaForCausalLM` with tied embeddings, at least two blocks and two kv heads."""
    import torch

    with torch.no_grad():
        _embeddings(model)
        generator = torch.Generator().manual_seed(seed)
        first = model.model.layers[0].self_attn
        for head in range(model.config.num_attention_heads - 1):
            _look_back(model, first, head, 1 + head)
        _look_around(model, first, model.config.num_attention_heads - 1)
        _induction(model, generator)


def _embeddings(model: Any) -> None:
    """All of one length, with one coordinate in common; and blocks that add little at first."""
    from torch.nn.functional import normalize

    table, width = model.model.embed_tokens.weight, model.config.hidden_size
    length = EMBEDDING * math.sqrt(width)
    table[:, 0] = 0.0
    table.copy_(normalize(table, dim=-1) * length)
    table[:, 0] = length * CONSTANT / math.sqrt(1 - CONSTANT**2)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_(OUTPUT)
        layer.mlp.down_proj.weight.mul_(OUTPUT)


def _look_back(model: Any, attention: Any, head: int, offset: int) -> None:
    """Query `head` attends `offset` tokens back, whatever they are.

    A constant key and a constant query that is turned by `offset` steps the other way meet at that distance.
    """
    import torch

    angles = model.model.rotary_emb.inv_freq.float()
    half = len(angles)
    nearest = float((1 - torch.cos(torch.arange(1, 64)[:, None] * angles)).sum(-1).min())
    read = math.sqrt(model.config.hidden_size) * CONSTANT  # of the common coordinate, after the norm
    size = math.sqrt(LOOK_BACK / nearest / attention.scaling) / read
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    query = attention.q_proj.weight[2 * half * head :][: 2 * half]
    key = attention.k_proj.weight[2 * half * (head // shared) :][: 2 * half]
    query.zero_()
    key.zero_()
    query[:half, 0], query[half:, 0] = size * torch.cos(offset * angles), -size * torch.sin(offset * angles)
    key[:half, 0] = size


def _look_around(model: Any, attention: Any, head: int) -> None:
    """Query `head` attends to the ten tokens or so before it, those about AROUND tokens back the most.

    It leaves out the pairs of RoPE that turn with every token: the others rise and fall slowly.
    """
    import torch

    angles = model.model.rotary_emb.inv_freq.float()
    half = len(angles)
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    lost = float((1 - torch.cos(WIDTH * angles[2:])).sum())
    read = math.sqrt(model.config.hidden_size) * CONSTANT
    key = attention.k_proj.weight[2 * half * (head // shared) :][: 2 * half]
    size = 1.0 / lost / attention.scaling / read / float(key[0, 0]) / read
    query = attention.q_proj.weight[2 * half * head :][: 2 * half]
    query.zero_()
    query[2:half, 0] = size * torch.cos(AROUND * angles[2:])
    query[half + 2 :, 0] = -size * torch.sin(AROUND * angles[2:])


def _induction(model: Any, generator: Any) -> None:
    """The first block notes which tokens came before; the second finds the present one among the nearest of those notes,
    and says what it stands on: one query head of each kv head, the others stay free."""
    import torch

    width, heads = model.config.hidden_size, model.config.num_attention_heads
    size, shared = width // heads, heads // model.config.num_key_value_heads
    slow = [i for i in range(size) if i % (size // 2) >= SLOW]

    def directions() -> Any:  # (size, width - 1), orthonormal; the common coordinate stays out of it
        return torch.linalg.qr(torch.randn(width - 1, size, generator=generator))[0].T

    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    said, notes = directions(), [directions() for _ in range(heads)]
    for kv in range(model.config.num_key_value_heads):
        _write(first.v_proj.weight[kv * size :][:size], said)
    for head, note in enumerate(notes):
        _write(first.o_proj.weight[:, head * size :][:, :size].T, note * EMBEDDING)
    lead = math.sqrt(LOOK_FOR / second.scaling / len(slow))
    for kv in range(model.config.num_key_value_heads):
        query, key = second.q_proj.weight[kv * shared * size :][:size], second.k_proj.weight[kv * size :][:size]
        for matrix, rows in ((query, said), (key, 2 * notes[0])):
            matrix.zero_()
            matrix[slow, 1:] = lead * rows[: len(slow)]
        token = directions()
        _write(second.v_proj.weight[kv * size :][:size], token)
        _write(second.o_proj.weight[:, kv * shared * size :][:, :size].T, token * EMBEDDING * COPY)


def _write(matrix: Any, rows: Any) -> None:
    matrix.zero_()
    matrix[:, 1:] = rows
