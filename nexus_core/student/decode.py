"""Decoding without the machinery: what `generate` writes, several times as fast on a small student, token by token.

At this size a token costs less than transformers' bookkeeping around it. Here the student itself reads the prompt; each
further token runs the blocks' own weights on (B, d) tensors, with keys and values in buffers that are made once. The
arithmetic is that of `LlamaDecoderLayer`, in its order; a test compares the tokens with those of `generate`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch.nn import functional

from nexus_core.hf.threads import SMALL
from nexus_core.student.assemble import projections
from nexus_core.student.deltas import DeltaLinear
from nexus_core.student.layer import NexusDecoderLayer
from nexus_core.student.model import NexusForCausalLM

# Kinds of RoPE whose angles do not depend on how long the text has become: a table of them can be made once.
STEADY = {"default", "linear", "llama3", "yarn"}
PROJECTIONS = 7  # of a Llama block: q, k, v, o, gate, up, down

Linear = tuple[torch.Tensor, torch.Tensor | None]  # weight and bias
Pick = Callable[[torch.Tensor, Sequence[int]], torch.Tensor]  # logits (B, V) and the row of each, to tokens (B)


def can_decode(student: NexusForCausalLM) -> bool:
    """Whether positions can be tabled and weights are plain (not quantised)."""
    plain = all(len(projections(layer)) == PROJECTIONS for layer in student.blocks)
    return plain and student.config.rope_parameters["rope_type"] in STEADY


def best(logits: torch.Tensor, rows: Sequence[int]) -> torch.Tensor:
    """The likeliest token of each row."""
    return logits.argmax(-1)


def greedy(student: NexusForCausalLM, batch: Mapping[str, Any], room: int, ends: Collection[int]) -> list[list[int]]:
    """The answers of `Writing`, written to their ends."""
    rows: list[list[int]] = [[] for _ in range(len(batch["input_ids"]))]
    for new in Writing(student, batch, room, ends):
        for row, token in new:
            rows[row].append(token)
    return rows


class Writing:
    """Answers to a batch as they are written: at most `room` tokens a row, up to and with the first that is in `ends`.

    `batch` is what `generate` takes, left-padded: input_ids, attention_mask, and thoughts with their mask. The prompts
    are read when this is made, with the adapter that is chosen then; choosing another one later changes nothing here.
    Forward hooks on parts of the student see the prompt only.
    """

    def __init__(
        self,
        student: NexusForCausalLM,
        batch: Mapping[str, Any],
        room: int,
        ends: Collection[int],
        pick: Pick = best,
    ) -> None:
        with torch.inference_mode():
            self._decoder: _Stepper = (_Decoder if can_decode(student) else _LongWay)(student, batch, room)
        self._left, self._ends, self._pick = room, ends, pick
        self._writing = list(range(len(batch["input_ids"])))  # the row of each place of the decoder's batch
        self._ended: set[int] = set()
        self._tokens: torch.Tensor | None = None

    def end(self, row: int) -> None:
        """Write no more of this row."""
        self._ended.add(row)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return self

    @torch.inference_mode()
    def __next__(self) -> list[tuple[int, int]]:
        """The next token of each row that has not ended, as (row, token)."""
        if self._left == 0 or self._ended.issuperset(self._writing):
            raise StopIteration
        logits = self._decoder.first if self._tokens is None else self._decoder.step(self._kept(self._tokens))
        self._tokens = self._pick(logits, self._writing)
        self._left -= 1
        written = zip(self._writing, self._tokens.tolist(), strict=True)
        new = [(row, token) for row, token in written if row not in self._ended]
        self._ended.update(row for row, token in new if token in self._ends)
        return new

    def _kept(self, tokens: torch.Tensor) -> torch.Tensor:
        """The last tokens of the rows to go on with: those that ended are dropped when half of the work is for nobody."""
        if 2 * sum(row in self._ended for row in self._writing) < len(self._writing):
            return tokens
        places = [place for place, row in enumerate(self._writing) if row not in self._ended]
        self._writing = [self._writing[place] for place in places]
        chosen = torch.tensor(places, device=tokens.device)
        self._decoder.keep(chosen)
        return tokens[chosen]


class _Stepper(Protocol):
    """Reads a batch of prompts when it is made; `first` are the logits (B, V) that follow them."""

    first: torch.Tensor

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits (B, V) after these tokens (B)."""

    def keep(self, chosen: torch.Tensor) -> None:
        """Go on with these rows of the batch only."""


class _LongWay:
    """By the student itself, as `generate` would: for what the short way cannot express."""

    def __init__(self, student: NexusForCausalLM, batch: Mapping[str, Any], room: int) -> None:
        self._student, self._chosen = student, student.chosen
        self._given = {name: batch[name] for name in ("thoughts", "thoughts_mask") if batch.get(name)}
        self._mask = batch["attention_mask"].bool()
        self._positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        self._cache: Any = None
        self.first = self._read(batch["input_ids"])

    def _read(self, ids: torch.Tensor) -> torch.Tensor:
        out = self._student(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=self._positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
            **self._given,
        )
        self._cache = out.past_key_values
        logits: torch.Tensor = out.logits[:, -1]
        return logits

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        self._mask = functional.pad(self._mask, (0, 1), value=True)
        self._positions = self._positions[:, -1:] + 1
        if self._student.chosen == self._chosen:
            return self._read(tokens[:, None])
        with self._student.using(self._chosen, allow_isolated=True):
            return self._read(tokens[:, None])

    def keep(self, chosen: torch.Tensor) -> None:
        self._cache.batch_select_indices(chosen)
        self._mask, self._positions = self._mask[chosen], self._positions[chosen]
        self._given = {name: {tower: t[chosen] for tower, t in given.items()} for name, given in self._given.items()}


class _Decoder:
    """The blocks with their memory of one batch."""

    def __init__(self, student: NexusForCausalLM, batch: Mapping[str, Any], room: int) -> None:
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        out = student(**{**batch, "position_ids": positions}, use_cache=True, logits_to_keep=1)
        self._student = student
        self._embedding, self._head = student.model.embed_tokens.weight, student.lm_head.weight
        self.first: torch.Tensor = out.logits[:, -1]
        self._length = ids.shape[1]  # columns of the memory in use
        self._positions = positions[:, -1] + 1  # (B) of the next token
        whole = self._length + room
        # Joined projections are copies: a few milliseconds and megabytes of a small student, too many of a large one.
        join = student.num_parameters() < SMALL
        self._blocks = [
            _Block(layer, join, _buffer(memory.keys, whole), _buffer(memory.values, whole))
            for layer, memory in zip(student.blocks, out.past_key_values.layers, strict=True)
        ]
        # What was padding stays hidden; what is still to come is cut off, not masked.
        self._mask = None if bool(mask.all()) else functional.pad(mask, (0, room), value=True)[:, None, None]
        cos, sin = student.model.rotary_emb(out.logits, torch.arange(whole, device=ids.device)[None])
        half = sin.shape[-1] // 2
        # rotate_half(x) * sin = roll(x, half) * sin with the first half negated: one copy of x instead of three.
        self._angles = torch.stack([cos[0], torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)])  # (2, T, e)
        self._thoughts = [batch.get("thoughts") or {}, batch.get("thoughts_mask") or {}]

    def step(self, tokens: torch.Tensor) -> torch.Tensor:
        """The logits (B, V) after these tokens (B)."""
        hidden = functional.embedding(tokens, self._embedding)  # (B, d)
        cos, sin = self._angles[:, self._positions, None]  # (B, 1, e) each
        self._length += 1
        mask = None if self._mask is None else self._mask[..., : self._length]
        for block in self._blocks:
            hidden = block.attend(hidden, cos, sin, self._length, mask)
            hidden = block.think(hidden)
            if self._thoughts[0]:
                hidden = block.layer.listen(hidden[:, None], *self._thoughts)[:, 0]
            if block.steer is not None:
                hidden = block.steer(hidden)
        self._positions = self._positions + 1
        hidden = _norm(self._student.model.norm, hidden)
        return functional.linear(hidden, self._head)

    def keep(self, chosen: torch.Tensor) -> None:
        """Go on with these rows of the batch only."""
        for block in self._blocks:
            block.keys, block.values = block.keys[chosen], block.values[chosen]
        if self._mask is not None:
            self._mask = self._mask[chosen]
        self._positions = self._positions[chosen]
        self._thoughts = [{tower: t[chosen] for tower, t in given.items()} for given in self._thoughts]


class _Block:
    """One block's effective weights and its keys and values (B, Hkv, T, e)."""

    def __init__(self, layer: NexusDecoderLayer, join: bool, keys: torch.Tensor, values: torch.Tensor) -> None:
        self.layer, self.keys, self.values, self.steer = layer, keys, values, layer.steering()
        attention, mlp = layer.self_attn, layer.mlp
        self._scale, self._act = attention.scaling, mlp.act_fn
        self._qkv = _weights(join, attention.q_proj, attention.k_proj, attention.v_proj)
        self._gate_up = _weights(join, mlp.gate_proj, mlp.up_proj)
        self._out, self._down = _weights(join, attention.o_proj), _weights(join, mlp.down_proj)

    def attend(
        self, hidden: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor, length: int, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """hidden (B, d) plus what its position finds in the memory, in which it is the last of `length`."""
        rows, kv, _, size = self.keys.shape
        heads = _project(_norm(self.layer.input_layernorm, hidden), self._qkv).view(rows, -1, size)
        turned = heads[:, :-kv]  # queries and keys
        turned = torch.addcmul(turned * cos, turned.roll(size // 2, -1), sin)
        self.keys[:, :, length - 1] = turned[:, -kv:]
        self.values[:, :, length - 1] = heads[:, -kv:]
        out = functional.scaled_dot_product_attention(
            turned[:, :-kv].view(rows, kv, -1, size),  # the queries that share a key stand in for positions
            self.keys[:, :, :length],
            self.values[:, :, :length],
            attn_mask=mask,
            scale=self._scale,
        )
        return hidden + _project(out.reshape(rows, -1), self._out)

    def think(self, hidden: torch.Tensor) -> torch.Tensor:
        """hidden (B, d) plus what the MLP makes of it."""
        gate, up = _project(_norm(self.layer.post_attention_layernorm, hidden), self._gate_up).chunk(2, -1)
        return hidden + _project(self._act(gate) * up, self._down)


def _buffer(known: torch.Tensor, whole: int) -> torch.Tensor:
    buffer = known.new_empty(*known.shape[:2], whole, known.shape[3])
    buffer[:, :, : known.shape[2]] = known
    return buffer


def _weights(join: bool, *linears: DeltaLinear) -> list[Linear]:
    """Projections of one input, as one if that is wanted."""
    plain: list[Linear] = [(p.effective_weight(), p.bias) for p in linears]
    if not join or len(plain) == 1:
        return plain
    biases = [bias for _, bias in plain if bias is not None]
    return [(torch.cat([weight for weight, _ in plain]), torch.cat(biases) if biases else None)]


def _project(x: torch.Tensor, weights: list[Linear]) -> torch.Tensor:
    outs = [functional.linear(x, weight, bias) for weight, bias in weights]
    return outs[0] if len(outs) == 1 else torch.cat(outs, -1)


def _norm(norm: Any, hidden: torch.Tensor) -> torch.Tensor:
    """RMSNorm in one call where it is in fp32, with transformers' own rounding elsewhere."""
    if hidden.dtype is not torch.float32:
        out: torch.Tensor = norm(hidden)
        return out
    return functional.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
