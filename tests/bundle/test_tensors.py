"""The one-pass reader against the library's: the same tensors of any kind, in memory of their own."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from nexus_core.bundle.manifest import FileFacts
from nexus_core.bundle.tensors import DTYPES, read_tensors
from nexus_core.errors import ModelError


def listed(path: Path) -> dict[str, FileFacts]:
    return {path.name: FileFacts(sha256(path.read_bytes()).hexdigest(), path.stat().st_size)}


def test_it_reads_what_the_library_reads(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(0, 2, (3, 5, 7), generator=generator)
    tensors = {f"of {kind}": drawn.to(dtype) for kind, dtype in DTYPES.items()}
    tensors |= {"number": torch.tensor(1.5), "odd": torch.arange(13, dtype=torch.uint8)}
    save_file(tensors, path, metadata={"format": "pt"})
    found, metadata = read_tensors(tmp_path, path.name, listed(path))
    wanted = load_file(path)
    assert set(found) == set(wanted) == set(tensors) and metadata == {"format": "pt"}
    for name, tensor in wanted.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(found[name], tensor)


def test_what_is_read_does_not_change_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"x": torch.zeros(1000)}, path)
    found, _ = read_tensors(tmp_path, path.name, listed(path))
    raw = bytearray(path.read_bytes())
    raw[-4000:] = b"\xff" * 4000
    path.write_bytes(raw)
    assert torch.equal(found["x"], torch.zeros(1000))


def test_no_tensors_at_all(tmp_path: Path) -> None:
    path = tmp_path / "none.safetensors"
    save_file({}, path)
    assert read_tensors(tmp_path, path.name, listed(path)) == ({}, {})


@pytest.mark.parametrize("verify", [True, False])
def test_a_file_of_another_size_is_refused(tmp_path: Path, verify: bool) -> None:
    path = tmp_path / "one.safetensors"
    save_file({"x": torch.zeros(10)}, path)
    files = listed(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"one\.safetensors has 103 bytes; manifest\.json says 104"):
        read_tensors(tmp_path, path.name, files, verify)
