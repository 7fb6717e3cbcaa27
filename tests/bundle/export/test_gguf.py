"""A GGUF file: what stands in it, and what llama.cpp makes of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from nexus_core.bundle.export.engine import Engine, GgufModel, nearest_rule
from nexus_core.bundle.export.gguf import Form, write_gguf
from nexus_core.bundle.export.plain import as_plain
from nexus_core.errors import ModelError, UsageError
from nexus_core.student.answer import StudentAnswerer
from nexus_core.types import GenerateOptions, Sample

gguf = pytest.importorskip("gguf")
TEXTS = ["The answer is 42.", "it's  what\n\n  we'll add: a_b(1000)", "déjà vu <|user|> x"]
SAMPLES = [Sample(str(i), text, "x") for i, text in enumerate(TEXTS)]


@pytest.fixture
def write(tmp_path):
    def make(student, capability=None, dtype="fp32", rule="gpt-2"):
        path = tmp_path / f"{capability}-{dtype}.gguf"
        write_gguf(path, student, capability, Form(dtype, rule))
        return path

    return make


def test_what_stands_in_it(student, write):
    reader = gguf.GGUFReader(write(student, "reasoning", "fp16"))
    value = {name: field.contents() for name, field in reader.fields.items()}
    assert value["general.architecture"] == "llama" and value["llama.block_count"] == 4
    assert value["llama.rope.freq_base"] == 1e6 and value["llama.rope.dimension_count"] == 16
    assert (value["llama.attention.head_count"], value["llama.attention.head_count_kv"]) == (4, 2)
    assert value["tokenizer.ggml.model"] == "gpt2" and value["tokenizer.ggml.pre"] == "gpt-2"
    assert value["tokenizer.ggml.eos_token_id"] == 1 and value["tokenizer.chat_template"].startswith("{% for")
    tokens = value["tokenizer.ggml.tokens"]
    known = len(student.tokenizer)
    assert tokens[:known] == student.tokenizer.convert_ids_to_tokens(range(known))
    assert len(tokens) == 320 and tokens[known] == f"[PAD{known}]", "the embeddings have rows that no token uses"
    assert value["tokenizer.ggml.token_type"] == [3] * 4 + [1] * (known - 4) + [5] * (320 - known)
    kinds = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
    assert kinds["blk.1.ffn_gate.weight"] == "F16" and kinds["blk.1.ffn_gate.bias"] == "F32"
    assert "output.weight" not in kinds or not student.model.config.tie_word_embeddings


def test_a_reader_of_another_project_finds_the_weights(student, write):
    """transformers puts the rows of q and k back in its own order."""
    from transformers import AutoModelForCausalLM

    path = write(student)
    theirs = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).state_dict()
    for name, tensor in student.model.plain().state_dict().items():
        np.testing.assert_array_equal(theirs[name].numpy(), tensor.numpy(), err_msg=name)


def test_other_positions_are_refused(make, write):
    turned = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "original_max_position_embeddings": 128}
    with pytest.raises(UsageError, match='the kind "yarn" are not written'):
        write(make(rope_parameters=turned))


def test_another_kind_of_tokenizer_is_refused(student, write):
    from dataclasses import replace

    from nexus_core.testing.tiny import byte_tokenizer

    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    for other in (PreTrainedTokenizerFast(tokenizer_object=words), byte_tokenizer()):
        with pytest.raises(UsageError, match="no plain byte-level BPE"):
            write(replace(student, tokenizer=other))


# --- run by llama.cpp -------------------------------------------------------------------------------------------


@pytest.fixture
def engine():
    pytest.importorskip("xllamacpp")


@pytest.mark.usefixtures("engine")
@torch.no_grad()
@pytest.mark.parametrize("capability", [None, "reasoning"])
@pytest.mark.parametrize("backbone", [{}, {"tie_word_embeddings": True, "head_dim": 32}, {"num_key_value_heads": 4}])
def test_the_engine_computes_what_the_plain_llama_computes(make, write, ids, capability, backbone):
    student = make(**backbone)
    row = ids[0].tolist()
    wanted = as_plain(student.model, capability)(ids[:1]).logits[0, -1].log_softmax(-1)
    with Engine(write(student, capability), 64) as engine:
        got = engine.next_log_probabilities(row, len(wanted))
    torch.testing.assert_close(got, wanted, atol=0.02, rtol=0.0)  # its memory of keys and values is in fp16
    assert wanted.max() - wanted.median() > 1


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("own", [True, False])
def test_its_answers_are_the_students(student, write, own):
    options = GenerateOptions(max_new_tokens=3)
    answerer = StudentAnswerer(student.model, student.tokenizer, None)
    assert clear(student, answerer, options) > 0.04, "twice what the engine's memory in fp16 was seen to move a logit"
    ours = answerer.generate(SAMPLES, options)
    with GgufModel(write(student), student.tokenizer, 256, own_tokenizer=own) as model:
        assert model.prompts(SAMPLES, 3) == answerer._rows(SAMPLES, 3)
        assert model.generate(SAMPLES, options) == ours and all(ours)


@torch.no_grad()
def clear(student, answerer, options):
    """How far the second choice is from the first, where it is nearest."""
    gaps = []
    for row, new in zip(answerer._rows(SAMPLES, 3), answerer.generate_tokens(SAMPLES, options), strict=True):
        logits = student.model(torch.tensor([row + new])).logits[0, len(row) - 1 : -1]
        best = logits.topk(2).values
        gaps.append((best[:, 0] - best[:, 1]).min())
    return min(gaps)


@pytest.mark.usefixtures("engine")
def test_a_long_prompt_loses_its_beginning_as_it_does_elsewhere(make, write):
    student = make(max_position_embeddings=1024)
    long = [Sample("1", "What is 3 + 4? " * 300, "7")]
    options = GenerateOptions(max_new_tokens=2)
    ours = StudentAnswerer(student.model, student.tokenizer, None).generate(long, options)
    with GgufModel(write(student), student.tokenizer, 1024) as model:
        assert [len(row) for row in model.prompts(long, 2)] == [1022]
        assert model.generate(long, options) == ours


@pytest.mark.usefixtures("engine")
def test_the_rule_that_cuts_alike_is_found(tokenizer, other_tokenizer, monkeypatch):
    from nexus_core.bundle.export import engine as module

    assert len(set(module.RULES)) == len(module.RULES) > 10
    monkeypatch.setattr(module, "RULES", ("llama-bpe", "gpt-2", "deepseek-coder"))
    found = nearest_rule(tokenizer, TEXTS)
    assert (found.name, found.same) == ("gpt-2", 1.0)
    odd = nearest_rule(other_tokenizer(pre_tokenizers.Split("a", "isolated")), ["a  aa  a\n", *TEXTS])
    assert odd.same < 1.0, "llama.cpp has no such rule, and it is said"


@pytest.mark.usefixtures("engine")
def test_what_the_engine_does_not_do_is_an_error(student, write, tmp_path):
    path = write(student)
    with GgufModel(path, student.tokenizer, 256) as model, pytest.raises(UsageError, match="greedy answers only"):
        model.generate(SAMPLES, GenerateOptions(temperature=0.5))
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ModelError, match=r"damaged\.gguf: llama\.cpp does not load it: .*error"):
        Engine(damaged, 64)
    with Engine(path, 64) as engine, pytest.raises(ModelError, match=r"llama\.cpp refuses 900 tokens"):
        engine.complete([5] * 900, 1)


@pytest.mark.usefixtures("engine")
def test_an_engine_that_says_nothing_or_dies_is_an_error(student, write, monkeypatch):
    from nexus_core.bundle.export import engine as module

    with Engine(write(student), 64) as engine:
        engine._process.kill()
        with pytest.raises(ModelError, match="ended without an answer"):
            engine.complete([5], 1)
    monkeypatch.setattr(module, "PATIENCE", 0.001)
    with pytest.raises(ModelError, match="ended without an answer"):
        Engine(write(student), 64)
