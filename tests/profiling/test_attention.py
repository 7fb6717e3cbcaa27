"""Where heads look: right on every layout, right for a planted head, never a map, and absent where it cannot be seen."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nexus_core.hf import HFTeacher
from nexus_core.hf.attention import eager_attention
from nexus_core.plugins import Plugins
from nexus_core.profiling import attention
from nexus_core.profiling.attention import attention_summaries, missing_attention
from nexus_core.profiling.cache import SignalCache, byte_offsets
from nexus_core.profiling.heads import important_heads
from nexus_core.profiling.model import HeadResult
from nexus_core.profiling.run import Profiler, ProfileSettings
from nexus_core.profiling.scoring import Baseline, Scorer
from nexus_core.profiling.signals import Collector
from nexus_core.testing.tiny import SMALL, byte_tokenizer
from nexus_core.types import Category, Contract, Detection, Direction, ModelSource, Sample, Thresholds

CHAT = "{% for m in messages %}<s>user: {{ m['content'] }}</s>{% endfor %}{% if add_generation_prompt %}> {% endif %}"
CONTRACT = Contract("lookup", "pack", "exact_match", Direction.HIGHER, 0.97, None, 1, 512, Thresholds(0.02, 0.005))
SETTINGS = ProfileSettings(60, 20, 20, 1, 4, 16, 16, 0.01)
LAYOUTS = {
    "llama": {},
    "gpt_neox": {},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {
        "layer_types": ["conv", "full_attention"],
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "num_dense_layers": 1,
        "moe_intermediate_size": 16,
    },
}


def wrap(model) -> HFTeacher:
    detection = Detection(Category.TRANSFORMERS, model.config.model_type, 1.0, "test")
    return HFTeacher(ModelSource(Path("tiny")), detection, model.eval(), byte_tokenizer())


def random_teacher(layout: str) -> HFTeacher:
    tokenizer, extra = byte_tokenizer(), LAYOUTS[layout]
    ids = {"vocab_size": len(tokenizer), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(42)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[layout](**{**SMALL, **ids, **extra}))
    with torch.no_grad():
        for parameter in model.parameters():  # sharper than at initialisation, so that no two places tie
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return wrap(model)


def planted_teacher() -> HFTeacher:
    """A Llama whose head 2 of block 0 looks at the last X before it, wherever that is; its other heads look evenly.

    Every embedding holds the same e0, and that of X also e1. The head's queries read e0 and its keys e1, in the slowest
    pair of rotary channels, where a few dozen positions turn almost nothing.
    """
    tokenizer = byte_tokenizer()
    sizes = {**SMALL, "num_key_value_heads": 4, "hidden_size": 32, "num_hidden_layers": 1, "rope_theta": 1e8}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), pad_token_id=0, eos_token_id=2, **sizes))
    layer = model.model.layers[0].self_attn
    with torch.no_grad():
        model.model.embed_tokens.weight[:, :2] = 0
        model.model.embed_tokens.weight[:, 0] = 1
        model.model.embed_tokens.weight[tokenizer.convert_tokens_to_ids("X"), 1] = 1
        layer.q_proj.weight.zero_()
        layer.k_proj.weight.zero_()
        slow = 2 * 8 + 3  # of the eight channels of head 2, pair 3 is the slowest
        layer.q_proj.weight[slow, 0] = 5
        layer.k_proj.weight[slow, 1] = 5
    return wrap(model)


def scored(teacher, metric, prompts: list[str], answers: list[str]) -> tuple[Scorer, list[np.ndarray]]:
    """A scorer whose teacher answered so, and the byte offsets of those answers (one token per byte, and the end)."""
    samples = [Sample(str(i), prompt, "") for i, prompt in enumerate(prompts)]
    scorer = Scorer(teacher, metric, samples)
    tokens = [[*teacher.processor(answer)["input_ids"], 2] for answer in answers]
    scorer.baseline = Baseline(tokens, list(answers), np.zeros(len(answers)))
    return scorer, [
        np.array([[min(i, n), min(i + 1, n)] for i in range(n + 1)]) for n in map(len, map(str.encode, answers))
    ]


def place(summary, t: int, h: int, text: str) -> str:
    return text.encode()[summary.starts[t, h] : summary.ends[t, h]].decode()


@pytest.mark.parametrize("template", [None, CHAT])
def test_a_planted_head_is_seen_where_it_looks(lookup, template):
    teacher = planted_teacher()
    teacher.processor.chat_template = template
    prompts, answers = ["aXb", "é€ cdefgh X ijk", "none here", "Xaaaa bbb"], ["abc", "d", "aXb", "zX"]
    scorer, offsets = scored(teacher, lookup, prompts, answers)
    found = attention_summaries(scorer, {"model.layers.0": (2, 0)}, offsets)["model.layers.0"]
    for i, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        summary, size = found[i], len(prompt.encode())
        assert summary.heads == (2, 0) and summary.starts.shape == (len(answer) + 1, 2)
        for t in range(len(answer) + 1):
            read = prompt + answer[:t]  # what the head has before it when token t is predicted
            if "X" not in read:
                assert summary.mass[t, 0] < 0.5
                continue
            assert place(summary, t, 0, prompt + answer) == "X" and summary.mass[t, 0] > 0.45
            if read.count("X") == 1:
                expected = len(read[: read.index("X")].encode())
                assert summary.starts[t, 0] == expected and summary.mass[t, 0] > 0.9
                assert (expected >= size) == ("X" not in prompt), "prompt and answer can be told apart"


def test_a_head_that_looks_at_the_template_looks_at_no_text(lookup):
    teacher = planted_teacher()
    teacher.processor.chat_template = CHAT.replace("user", "X")
    scorer, offsets = scored(teacher, lookup, ["abc", "de"], ["fg", "h"])
    found = attention_summaries(scorer, {"model.layers.0": (2,)}, offsets)["model.layers.0"]
    for i in (0, 1):
        assert (found[i].sizes == 0).all() and (found[i].mass > 0.9).all()


@pytest.mark.parametrize("layout", sorted(LAYOUTS))
def test_every_layout_gives_what_the_model_itself_says(lookup, layout):
    """Against the model's own `attentions`, one unpadded sample at a time: padding and batching change nothing."""
    teacher = random_teacher(layout)
    assert missing_attention(teacher, lookup, Sample("0", "abc", "")) == ""
    prompts, answers = ["kzq7", "a longer prompt of €uros", "x"], ["abcd", "e", "12345678"]
    scorer, offsets = scored(teacher, lookup, prompts, answers)
    own = teacher.model.config._attn_implementation
    attending = [i for i, kind in enumerate(LAYOUTS[layout].get("layer_types", ["", ""])) if kind != "conv"]
    blocks = list(teacher.blocks)
    found = attention_summaries(scorer, {blocks[i]: (3, 1) for i in attending}, offsets)
    assert teacher.model.config._attn_implementation == own
    for i, prompt in enumerate(prompts):
        batch, mask = teacher.encode_answers([scorer.samples[i]], [scorer.baseline.tokens[i]], lookup.options)
        with eager_attention(teacher.model):
            maps = teacher.forward({**batch, "output_attentions": True}).attentions
        bytes_of = len(prompt.encode())
        assert len(maps) == len(attending)
        for weights, block in zip(maps, (blocks[j] for j in attending), strict=True):
            mass, key = weights[0, [3, 1]][:, mask[0]].max(-1)  # (H, T)
            summary = found[block][i]
            assert np.allclose(summary.mass, mass.T.numpy(), atol=1e-3)
            starts, _ = byte_offsets_of(prompt), None
            expected = [[starts[k] if k < bytes_of else k for k in row] for row in key.T.tolist()]
            assert summary.starts.tolist() == expected


def byte_offsets_of(prompt: str) -> list[int]:
    """Where the character starts that each byte of the prompt belongs to: half a character counts as all of it."""
    return [int(byte_offsets(prompt, [(c, c)])[0, 0]) for c, character in enumerate(prompt) for _ in character.encode()]


def test_samples_are_batched_by_what_a_map_of_weights_costs(lookup, monkeypatch):
    teacher = random_teacher("llama")
    scorer, offsets = scored(teacher, lookup, [f"{'q' * (i % 5)}{i}" for i in range(40)], ["ab"] * 40)
    everything = attention_summaries(scorer, {"model.layers.1": (0,)}, offsets)["model.layers.1"]
    rows: list[int] = []
    encode = scorer.encode
    monkeypatch.setattr(scorer, "encode", lambda indices: rows.append(len(indices)) or encode(indices))
    monkeypatch.setattr(attention, "WEIGHTS_BUDGET", 4 * 4 * 10**2 * 3)
    few = attention_summaries(scorer, {"model.layers.1": (0,)}, offsets)["model.layers.1"]
    assert sorted(few) == list(range(40)) and 1 <= max(rows) < 20
    for i in range(40):
        assert np.array_equal(few[i].starts, everything[i].starts)


class Fused:
    """What a fused attention does: the output, and nothing to look at."""

    @staticmethod
    def forward(module, *args, **kwargs):
        return type(module).forward(module, *args, **kwargs)[0], None


def hide_weights(model) -> None:
    for layer in model.model.layers:
        layer.self_attn.forward = MethodType(Fused.forward, layer.self_attn)


def test_a_teacher_that_hides_its_attention_is_said_to(one_planted, lookup, tmp_path):
    model = LlamaForCausalLM(one_planted.teacher.model.config).eval()
    model.load_state_dict(one_planted.teacher.model.state_dict())
    hide_weights(model)
    teacher = wrap(model)
    reason = "model.layers.0 gives no attention weights of its 4 heads"
    assert missing_attention(teacher, lookup, Sample("0", "kzq7", "")) == reason
    profile, _ = Profiler(Plugins([]), teacher, lookup, CONTRACT, SETTINGS).run()
    assert f"no attention summaries will be collected: {reason}" in profile.notes
    said: list[str] = []
    cache = SignalCache(tmp_path / "signals")
    collector = Collector(teacher, lookup, profile, cache, said.append, heads={"model.layers.2": (0,)})
    assert collector.collect(8, seed=42) == 8
    assert f"no attention summaries: {reason}" in said
    assert all(not signal.attention for signal in cache.iterate())


@pytest.fixture(scope="module")
def profile(one_planted, lookup):
    found = Profiler(Plugins([]), one_planted.teacher, lookup, CONTRACT, SETTINGS).run()[0]
    assert not any("attention" in note for note in found.notes)
    return found


def test_signals_carry_summaries_and_finished_units_stay(one_planted, lookup, profile, tmp_path):
    cache = SignalCache(tmp_path / "signals")
    plain = Collector(one_planted.teacher, lookup, profile, cache)
    watching = replace(plain, heads={"model.layers.1": (3, 0), "model.layers.2": (1,)})
    assert (watching.collect(70, seed=42), watching.collect(70, seed=42)) == (70, 0)
    signals = list(cache.iterate())
    for signal in signals:
        assert {block: of.heads for block, of in signal.attention.items()} == watching.heads
        assert signal.attention["model.layers.1"].mass.shape == (len(signal.token_ids), 2)
        text = (signal.prompt + signal.output).encode()
        assert all((of.sizes == 1).all() and of.ends.max() <= len(text) for of in signal.attention.values())
    sizes = cache.sizes()["planted-42", "lookup"]
    assert sizes["attention_bytes"] == 6 * 3 * sizes["tokens"], "six bytes per head and token, whatever the prompt"
    assert cache.verify() == []
    # Without heads a unit is another one, under the name that it always had.
    assert plain.collect(64, seed=42) == 64 and plain.collect(64, seed=42) == 0
    assert "heads" not in plain._key([Sample("0", "a", "")], {}, False).settings


def test_important_heads_are_proven_costliest_first_and_few(profile):
    rows = [
        ("b1", 0, 0.3, 0.2),
        ("b1", 1, 0.5, 0.4),
        ("b1", 2, 0.2, -0.01),
        ("b1", 3, 0.3, 0.1),
        ("b2", 0, 0.004, 0.004),
    ]
    heads = tuple(HeadResult(block, head, drop, low, 1.0) for block, head, drop, low in rows)
    measured = replace(profile, heads=heads)
    assert important_heads(measured, Thresholds(0.02, 0.005), 4) == {"b1": (1, 0, 3)}
    assert important_heads(measured, Thresholds(0.02, 0.005), 2) == {"b1": (1, 0)}
    assert important_heads(replace(profile, heads=()), Thresholds(0.02, 0.005), 4) == {}
    assert math.isclose(measured.heads[1].low, 0.4)


def test_heads_that_stand_in_for_each_other_count_where_their_block_does(profile):
    heads = tuple(HeadResult("b1", i, drop, -0.04, 0.1) for i, drop in enumerate((0.01, 0.03, 0.0)))
    measured = replace(profile, heads=heads, pilot={"b1": 0.9})
    assert important_heads(measured, Thresholds(0.02, 0.005), 2) == {"b1": (1, 0)}
    assert important_heads(replace(measured, pilot={"b1": 0.01}), Thresholds(0.02, 0.005), 2) == {}
