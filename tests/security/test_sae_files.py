"""Hostile and damaged autoencoder folders: named with the file and what is wrong with it, and nothing in them is run."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from nexus_core.errors import ModelError
from nexus_core.profiling.sae import load_sae

D, M = 8, 16


def tensors(**changes):
    generator = torch.Generator().manual_seed(0)
    shapes = {"w_enc": (D, M), "b_enc": (M,), "w_dec": (M, D), "b_dec": (D,), "threshold": (M,)}
    good = {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}
    return {name: tensor for name, tensor in (good | changes).items() if tensor is not None}


def write(folder, config=None, **changes):
    save_file(tensors(**changes), folder / "params.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": "jump_relu"} if config is None else config))
    return folder


def refused(folder, said):
    with pytest.raises(ModelError, match=said) as caught:
        load_sae(folder)
    assert str(folder) in caught.value.message
    assert caught.value.hint
    return caught.value


def test_the_folder_is_good_before_it_is_damaged(tmp_path):
    sae = load_sae(write(tmp_path))
    assert (sae.dim, sae.features) == (D, M)


@pytest.mark.parametrize("name", ["w_enc", "b_enc", "w_dec", "b_dec"])
def test_a_missing_tensor_is_named(tmp_path, name):
    refused(write(tmp_path, **{name: None}), rf"params\.safetensors: no tensor {name}")


@pytest.mark.parametrize("name", ["w_enc", "b_enc", "w_dec", "b_dec", "threshold"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_infinity_are_named(tmp_path, name, value):
    tensor = tensors()[name]
    tensor.view(-1)[-1] = value
    refused(write(tmp_path, **{name: tensor}), rf"params\.safetensors: {name} holds values that are not finite")


def test_integers_are_no_weights(tmp_path):
    refused(write(tmp_path, b_enc=torch.zeros(M, dtype=torch.int64)), r"b_enc .*torch\.int64")


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("w_dec", (D, M)),
        ("b_enc", (D,)),
        ("b_dec", (M,)),
        ("threshold", (M, 1)),
        ("w_enc", (D * M,)),
        ("w_enc", (0, M)),
    ],
)
def test_a_shape_that_does_not_fit_is_named(tmp_path, name, shape):
    refused(write(tmp_path, **{name: torch.ones(shape)}), rf"params\.safetensors: {name} has shape \({shape[0]},")


@pytest.mark.parametrize("kept", [0, 4, 8, 60, -1])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = write(tmp_path) / "params.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    refused(tmp_path, r"params\.safetensors: ")


@pytest.mark.parametrize("length", [2**63, 2**40, 10**9])
def test_a_header_longer_than_the_file_takes_no_memory(tmp_path, length):
    path = write(tmp_path) / "params.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(tmp_path, r"params\.safetensors: ")


def test_a_shape_larger_than_the_file_takes_no_memory(tmp_path):
    header = json.dumps({"w_enc": {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 4 * 10**12]}}).encode()
    write(tmp_path)
    (tmp_path / "params.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    refused(tmp_path, r"params\.safetensors: ")


def test_a_pickle_under_the_name_is_not_run(tmp_path):
    mark = tmp_path / "owned"
    write(tmp_path)
    (tmp_path / "params.safetensors").write_bytes(b"\x80\x02" + f"cposix\nsystem\n(S'touch {mark}'\ntR.".encode())
    refused(tmp_path, r"params\.safetensors: ")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["params.npz", "sae.pt", "ae.bin"])
def test_other_formats_are_named_and_not_read(tmp_path, name):
    (write(tmp_path) / "params.safetensors").unlink()
    (tmp_path / name).write_bytes(b"\x80\x02.")
    error = refused(tmp_path, rf"no params\.safetensors \(only {name}, which is not read\)")
    assert "only safetensors are read" in error.hint


def test_a_directory_in_place_of_the_weights(tmp_path):
    (write(tmp_path) / "params.safetensors").unlink()
    (tmp_path / "params.safetensors").mkdir()
    refused(tmp_path, r"no params\.safetensors")


def test_an_empty_folder_says_what_belongs_there(tmp_path):
    assert "config.json and params.safetensors" in refused(tmp_path, r"no config\.json").hint


@pytest.mark.parametrize("text", ["{", "[]", "null", "[" * 100_000, "\udcff"])
def test_a_malformed_config_is_named(tmp_path, text):
    write(tmp_path)
    (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    refused(tmp_path, r"config\.json: ")


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"type": "transcoder"}, "type 'transcoder' is not an autoencoder of one activation"),
        ({"architecture": "topk"}, "architecture 'topk' is not known"),
        ({"architecture": ["jump_relu"]}, "architecture .*is not known"),
        ({"architecture": "relu"}, "architecture 'relu', but params.safetensors has a threshold"),
        ({"width": 32}, "width 32, but params.safetensors has 16 features"),
        ({"normalize_activations": "layer_norm"}, "normalised activations"),
    ],
)
def test_what_would_be_computed_otherwise_is_refused(tmp_path, config, said):
    refused(write(tmp_path, config), said)


def test_a_jump_relu_without_its_threshold_is_refused(tmp_path):
    refused(write(tmp_path, threshold=None), "architecture 'jump_relu', but params.safetensors has no threshold")


def test_a_hook_point_that_is_no_text_is_refused_at_the_site(tmp_path):
    from types import SimpleNamespace

    from nexus_core.profiling.sae import check_site

    sae = load_sae(write(tmp_path, {"hf_hook_point_in": {"layer": 3}}))
    with pytest.raises(ModelError, match="not the output of a whole block"):
        check_site(sae, SimpleNamespace(width=D, index=3, name="model.layers.3"))


def test_half_precision_is_read(tmp_path):
    halves = {name: tensor.half() for name, tensor in tensors().items()}
    sae = load_sae(write(tmp_path, **halves))
    assert np.array_equal(sae.w_enc.numpy(), halves["w_enc"].float().numpy())
