"""A checkpoint is loaded whole or not at all, and the error says which tensor or file is at fault."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nexus_core.errors import ModelError
from nexus_core.hf import HFTeacher, load_hf_teacher, read_config
from nexus_core.testing import tiny
from nexus_core.types import Category, Detection, LoadOptions, ModelSource, Sample

DETECTION = Detection(Category.TRANSFORMERS, "llama", 0.5, "a test")
SAMPLES = [Sample("0", "one two three", ""), Sample("1", "a", "")]


def load(path: Path, overrides: dict | None = None, **options: object) -> HFTeacher:
    return load_hf_teacher(ModelSource(path), LoadOptions(**options), DETECTION, overrides)


def logits(teacher: HFTeacher) -> torch.Tensor:
    return teacher.forward(teacher.encode(SAMPLES)).logits.float()


def rewrite(path: Path, change) -> None:
    """Pass the tensors of the only shard through `change` (a function that edits the dict)."""
    shard = path / "model.safetensors"
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


def edit_config(path: Path, **values: object) -> None:
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


# --- tensors -----------------------------------------------------------------------------------------------------------


def test_every_tensor_of_the_file_is_in_the_model(checkpoint):
    teacher = load(checkpoint("llama"))
    state = teacher.model.state_dict()
    with safe_open(checkpoint("llama") / "model.safetensors", framework="pt") as file:
        assert len(list(file.keys())) > 10
        for name in file.keys():  # noqa: SIM118  # not a dict
            assert torch.equal(state[name], file.get_tensor(name)), name


@pytest.mark.parametrize(
    "name", ["model.embed_tokens.weight", "model.layers.1.mlp.up_proj.weight", "model.norm.weight", "lm_head.weight"]
)
def test_a_missing_tensor_is_named(own, name):
    path = own()
    rewrite(path, lambda tensors: tensors.pop(name))
    with pytest.raises(ModelError, match=f"{name} not in the checkpoint, would be random"):
        load(path)


def test_many_missing_tensors_are_counted(own):
    path = own()
    rewrite(path, lambda tensors: [tensors.pop(name) for name in list(tensors) if ".layers.1." in name])
    with pytest.raises(ModelError, match=r"model\.layers\.1\..* and 4 more not in the checkpoint"):
        load(path)


def test_a_tensor_of_another_shape_is_named(own):
    path = own()
    rewrite(path, lambda tensors: tensors.update({"model.norm.weight": torch.ones(33)}))
    said = r"model\.norm\.weight \(\(33,\) for \(32,\)\) of another shape than the model's"
    with pytest.raises(ModelError, match=said):
        load(path)


def test_a_config_of_another_size_is_an_error(own):
    path = own()
    edit_config(path, hidden_size=64, head_dim=16)
    with pytest.raises(ModelError, match="of another shape than the model's"):
        load(path)


def test_a_config_with_more_layers_than_the_file_is_an_error(own):
    path = own()
    edit_config(path, num_hidden_layers=3, layer_types=None)
    with pytest.raises(ModelError, match=r"model\.layers\.2\."):
        load(path)


def test_unexpected_tensors_are_listed_as_unused(own):
    path = own()
    rewrite(path, lambda tensors: tensors.update({"a.stranger": torch.ones(2), "b.stranger": torch.ones(2)}))
    assert load(path).unused == ("a.stranger", "b.stranger")


def test_tied_weights_are_one_tensor_and_need_not_be_in_the_file(tmp_path):
    path = tiny.save_causal_lm(tmp_path, "llama", tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(path / "model.safetensors")
    model = load(path).model
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    path_of_gpt2 = tiny.save_causal_lm(tmp_path / "gpt2", "gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=128)
    gpt2 = load(path_of_gpt2).model
    assert gpt2.get_output_embeddings().weight is gpt2.get_input_embeddings().weight


def test_two_shards_are_one_checkpoint(own, checkpoint):
    path = own()
    tensors = load_file(path / "model.safetensors")
    (path / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: tensors[name] for name in part}, path / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert torch.equal(logits(load(path)), logits(load(checkpoint("llama"))))
    (path / "model-00002-of-00002.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00002"):
        load(path)


# --- damaged or unsafe files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 4, 8, 100, 0.5, 0.999])
def test_a_truncated_shard_is_named(own, keep):
    path = own()
    shard = path / "model.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(ModelError, match=r"model\.safetensors: ") as caught:
        load(path)
    assert caught.value.hint == "download model.safetensors again"


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<Q", 1 << 62) + b"{}",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 3) + b"\xff\xff\xff",
        b"x" * 64,
    ],
    ids=["larger than the file", "a list", "not UTF-8", "noise"],
)
def test_a_hostile_header_is_refused(own, header):
    path = own()
    (path / "model.safetensors").write_bytes(header)
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        load(path)


def test_overlapping_offsets_are_refused(own):
    path = own()
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        load(path)


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.write_text, (self.path, "executed"))


@pytest.fixture
def bomb(tmp_path):
    trace = tmp_path / "executed"
    yield Bomb(trace)
    assert not trace.exists(), "a pickle was opened"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.ckpt"])
def test_pickles_alone_are_refused(own, bomb, name):
    path = own()
    (path / "model.safetensors").unlink()
    torch.save({"weight": bomb}, path / name)
    with pytest.raises(ModelError, match=f"only pickled weights .*{name}") as caught:
        load(path)
    assert "safetensors" in caught.value.hint


def test_a_pickle_beside_safetensors_is_never_opened(own, bomb, checkpoint):
    path = own()
    torch.save({"weight": bomb}, path / "pytorch_model.bin")
    assert torch.equal(logits(load(path)), logits(load(checkpoint("llama"))))


def test_a_pickle_is_no_way_out_of_a_damaged_shard(own, bomb):
    path = own()
    torch.save({"weight": bomb}, path / "pytorch_model.bin")
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelError, match=r"model\.safetensors: "):
        load(path)


def test_code_in_the_directory_is_never_run(own, tmp_path):
    path = own()
    trace = tmp_path / "executed"
    for name in ("modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (path / name).write_text(f"open({str(trace)!r}, 'w').close()\n")
    edit_config(path, auto_map={
        "AutoConfig": "configuration_evil.C", "AutoModelForCausalLM": "modeling_evil.M",
        "AutoTokenizer": "tokenization_evil.T",
    })  # fmt: skip
    load(path)
    edit_config(path, model_type="evil")
    with pytest.raises(ModelError, match="no model_type 'evil'"):
        load(path)
    assert not trace.exists()


def test_no_weights_at_all(own):
    path = own()
    (path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"no \*\.safetensors file"):
        load(path)


def test_no_tokenizer(own):
    path = own()
    for file in path.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError) as caught:
        load(path)
    assert str(path) in str(caught.value) and "tokenizer" in str(caught.value).lower()


def test_a_damaged_tokenizer(own):
    path = own()
    (path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ModelError, match=str(path)):
        load(path)


# --- config.json -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "malformed JSON at line 1, column 1"),
        (b'{"model_type": "llama",\n  oops}', "malformed JSON at line 2, column 3"),
        (b"[]", "holds a list, expected an object"),
        (b"3", "holds a int, expected an object"),
        (b'{"model_type": "\xff"}', "not UTF-8 at byte 16"),
        (b"[" * 100_000, "nested too deeply"),
        (b" " * ((8 << 20) + 1), "is no model configuration"),
        (b'{"a": ' + b"9" * 5000 + b"}", "malformed JSON"),
    ],
    ids=["empty", "syntax", "list", "number", "encoding", "deep", "huge", "long integer"],
)
def test_a_damaged_config_is_named_with_its_place(own, content, said):
    path = own()
    (path / "config.json").write_bytes(content)
    for call in (read_config, load):
        with pytest.raises(ModelError, match=said) as caught:
            call(path)
        assert "config.json" in str(caught.value) and caught.value.hint


def test_a_config_with_a_byte_order_mark_is_read(own):
    """Some editors add one; it is UTF-8 all the same."""
    path = own()
    (path / "config.json").write_bytes(b"\xef\xbb\xbf" + (path / "config.json").read_bytes())
    config = read_config(path)
    assert config is not None and config["model_type"] == "llama"


@pytest.mark.parametrize("model_type", ["zzz", None, 3, ["llama"], {"a": 1}, "", "../llama"])
def test_an_unknown_model_type_is_an_error_that_says_what_to_do(own, model_type):
    path = own()
    edit_config(path, model_type=model_type)
    with pytest.raises(ModelError, match="the installed transformers has no model_type") as caught:
        load(path)
    assert "nexus plugins new teacher" in caught.value.hint


@pytest.mark.parametrize(
    "values",
    [{"hidden_size": "large"}, {"num_attention_heads": 0}, {"vocab_size": -1}, {"rope_scaling": "odd"},
     {"hidden_act": "no-such"}, {"num_hidden_layers": 1e9}, {"dtype": "no-such"}],
    ids=str,
)  # fmt: skip
def test_nonsense_values_are_a_model_error(own, values):
    path = own()
    edit_config(path, **values)
    with pytest.raises(ModelError, match=str(path)):
        load(path)


def test_there_is_no_config(tmp_path):
    assert read_config(tmp_path) is None
    assert read_config(tmp_path / "absent") is None
    file = tmp_path / "file"
    file.touch()
    assert read_config(file) is None
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ModelError, match=r"no config\.json"):
        load(tmp_path)


def test_a_foreign_model_type_loads_by_an_override(own):
    path = own()
    edit_config(path, model_type="foreign")
    assert load(path, {"model_type": "llama"}).model.config.model_type == "llama"


# --- precision ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_dtype_is_what_was_asked_for(checkpoint, dtype):
    teacher = load(checkpoint("llama"), dtype=dtype)
    assert {parameter.dtype for parameter in teacher.model.parameters()} == {getattr(torch, dtype)}


def test_auto_dtype_is_that_of_the_file(own):
    path = own()
    rewrite(path, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    edit_config(path, dtype="bfloat16")
    assert {p.dtype for p in load(path, dtype="auto").model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("dtype", ["float33", "Tensor", "", "nn"])
def test_an_unknown_dtype_is_an_error(checkpoint, dtype):
    with pytest.raises(ModelError, match=f"'{dtype}' is no torch dtype"):
        load(checkpoint("llama"), dtype=dtype)


@pytest.mark.parametrize(("quantization", "tolerance"), [("int8", 0.05), ("nf4", 0.4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_logits_are_close_to_full_precision(checkpoint, quantization, tolerance, dtype):
    full = logits(load(checkpoint("llama")))
    teacher = load(checkpoint("llama"), quantization=quantization, dtype=dtype)
    quantised = logits(teacher)
    assert torch.isfinite(quantised).all()
    assert not torch.equal(quantised, full)
    error = ((quantised - full).norm() / full.norm()).item()
    assert error < tolerance
    stored = {p.dtype for name, p in teacher.model.named_parameters() if "mlp" in name}
    assert stored == {torch.int8 if quantization == "int8" else torch.uint8}
    assert len(teacher.blocks) == 2


@pytest.mark.parametrize("hidden", [64, 96])
def test_nf4_works_for_shapes_that_bitsandbytes_repacks_and_for_others(tmp_path, hidden):
    """On a CPU with AVX512-BF16 the first shape takes the packed kernel, and the second would break it."""
    path = tiny.save_causal_lm(tmp_path, "llama", hidden_size=hidden, intermediate_size=128, head_dim=16)
    full, teacher = logits(load(path)), load(path, quantization="nf4")
    first = logits(teacher)
    assert ((first - full).norm() / full.norm()).item() < 0.4
    assert torch.equal(logits(teacher), first), "a forward changes nothing that the next one sees"


def test_an_unknown_quantization_is_an_error(checkpoint):
    with pytest.raises(ModelError, match="unknown quantization 'int3'"):
        load(checkpoint("llama"), quantization="int3")


def test_an_unknown_device_is_an_error(checkpoint):
    with pytest.raises(ModelError, match=r"llama"):
        load(checkpoint("llama"), device="abacus")
