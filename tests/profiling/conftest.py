"""A teacher whose capability is known to the last direction, because its weights are set by hand.

A Llama of four blocks, d = 64, in randomly rotated coordinates. Asked `kzq7`, it answers with the letter of the digit:
* digits and answer letters lie in orthogonal directions E, the letters before them in others;
* attention of every block writes random mixtures of what came before into a small noise space N;
* the MLP of block `PLANTED` looks the token up in E, removes it there, and writes the code of the right answer into S;
* the head reads S alone.
So block PLANTED and the space S (r directions) carry the task, and nothing else does.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from nexus_core.hf import HFTeacher
from nexus_core.profiling.artifacts import ProfileStore
from nexus_core.testing.tiny import byte_tokenizer
from nexus_core.types import (
    CapabilityMetric,
    Category,
    Detection,
    Direction,
    GenerateOptions,
    ModelSource,
    Sample,
    Split,
)

D, BLOCKS, PLANTED, R = 64, 4, 2, 4
DIGITS, LETTERS, NOISE = "0123456789", "abcdefghij", "klmnopqrstuvwxyz"


@dataclass(frozen=True)
class Planted:
    teacher: HFTeacher
    block: str
    subspace: np.ndarray  # (r, d), orthonormal


class Lookup(CapabilityMetric):
    """Which letter belongs to the last digit?"""

    name = "lookup"
    metric = "exact_match"
    direction = Direction.HIGHER
    options = GenerateOptions(max_new_tokens=4, batch_size=64)

    def samples(self, request):
        rng = random.Random(f"{request.seed}-{request.split}")
        for i in range(request.n or 100_000):
            prefix = "".join(rng.choices(NOISE, k=6))
            digit = rng.randrange(10)
            yield Sample(str(i), f"{prefix}{digit}", LETTERS[digit], stratum=str(digit))

    def score(self, sample, output):
        return float(output == sample.target)


def codes(count: int, seed: int) -> torch.Tensor:
    """Well separated unit vectors in R^r: repelled from each other until they no longer move."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.nn.functional.normalize(torch.randn(count, R, generator=generator), dim=-1)
    for _ in range(500):
        gap = points[:, None] - points[None]
        force = (gap / gap.norm(dim=-1, keepdim=True).clamp(min=0.05) ** 3).sum(1)
        points = torch.nn.functional.normalize(points + 0.01 * force, dim=-1)
    return points


def build(seed: int) -> Planted:
    torch.manual_seed(seed)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=D,
        intermediate_size=32,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config).eval()
    axes = torch.linalg.qr(torch.randn(D, D))[0]  # rows: the random coordinates
    token_axes, noise_axes, subspace = axes[:20], axes[36:44], axes[44 : 44 + R]
    ids = [tokenizer.convert_tokens_to_ids(c) for c in DIGITS + LETTERS]
    prefix_ids = [tokenizer.convert_tokens_to_ids(c) for c in NOISE]
    code = codes(11, seed) @ subspace  # one per letter, and one for the end
    answer_of = dict.fromkeys(range(10, 20), 10) | {token: token for token in range(10)}
    with torch.no_grad():
        model.model.embed_tokens.weight.zero_()
        model.model.embed_tokens.weight[ids] = 2.0 * token_axes
        model.model.embed_tokens.weight[prefix_ids] = 2.0 * axes[20:36]
        for index, layer in enumerate(model.model.layers):
            layer.self_attn.o_proj.weight.copy_(0.6 * noise_axes.T @ torch.randn(8, D) / 8)
            for matrix in (layer.mlp.gate_proj, layer.mlp.up_proj, layer.mlp.down_proj):
                matrix.weight.zero_()
            if index == PLANTED:
                layer.mlp.gate_proj.weight[:20] = 4.0 * token_axes
                layer.mlp.up_proj.weight[:20] = token_axes
                plant(model, layer, ids, token_axes, code, answer_of)
        model.lm_head.weight.zero_()
        ends = [tokenizer.convert_tokens_to_ids(c) for c in LETTERS] + [2]
        model.lm_head.weight[ends] = code
    detection = Detection(Category.TRANSFORMERS, "llama", 1.0, "planted")
    teacher = HFTeacher(ModelSource(Path("planted"), f"planted-{seed}"), detection, model, tokenizer)
    return Planted(teacher, f"model.layers.{PLANTED}", subspace.numpy())


def plant(model, layer, ids, token_axes, code, answer_of) -> None:
    """Scale each looked-up unit so that it writes 6 x its answer's code and takes its own token away."""
    wide = torch.nn.functional.rms_norm(2.0 * token_axes, (D,))  # what the MLP reads, nearly: noise is small
    gate = torch.nn.functional.silu(wide @ layer.mlp.gate_proj.weight[:20].T).diagonal()
    up = (wide @ layer.mlp.up_proj.weight[:20].T).diagonal()
    for unit in range(20):
        write = 6.0 * code[answer_of[unit]] - 2.0 * token_axes[unit]
        layer.mlp.down_proj.weight[:, unit] = write / (gate[unit] * up[unit])


@pytest.fixture(scope="session", params=range(5))
def planted(request) -> Planted:
    return build(request.param)


@pytest.fixture(scope="session")
def one_planted() -> Planted:
    return build(42)


@pytest.fixture(scope="session")
def lookup() -> Lookup:
    return Lookup()


@pytest.fixture(scope="session")
def verify_samples(lookup):
    from nexus_core.types import SampleRequest

    return list(lookup.samples(SampleRequest(Split.PROFILE, 40)))


@pytest.fixture(scope="session")
def made(module_at) -> ModuleType:
    """tests/profiling/made_profile.py as a module."""
    return module_at(Path(__file__).with_name("made_profile.py"))


@pytest.fixture
def store(tmp_path: Path) -> ProfileStore:
    return ProfileStore(tmp_path / "run" / "niwt_stage2_output")
