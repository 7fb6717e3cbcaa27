"""NaN and infinity in a bundle whose hashes are right: refused by the name of the tensor."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file, save_file

from nexus_core.bundle.check import check_bundle
from nexus_core.bundle.reader import open_bundle
from nexus_core.errors import ModelError


@pytest.fixture(scope="session")
def tiny(module_at: Callable[[Path], ModuleType]) -> ModuleType:
    return module_at(Path(__file__).parents[1] / "bundle/tiny_bundle.py")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "nf4"])
def test_a_number_that_is_none_is_refused_at_load_by_its_tensors_name(
    tiny: ModuleType, tmp_path: Path, kind: str, number: float
) -> None:
    """Hashed anew by whoever put it there: only the numbers themselves can tell."""
    whole = tiny.make(tmp_path / "bundle", quantisation=kind)
    for file in ("backbone/backbone.safetensors", "adapters/tools_adapter.safetensors", "router/router.safetensors"):
        bundle = Path(shutil.copytree(whole, tmp_path / file.replace("/", "_")))
        tensors = load_file(bundle / file)
        name = min(name for name, tensor in tensors.items() if tensor.is_floating_point() and "floor" not in name)
        tensors[name].view(-1)[-1] = torch.tensor(number)
        save_file(tensors, bundle / file)
        tiny.relist(bundle)
        for verify in (True, False):
            with pytest.raises(ModelError, match=rf"{file}: {name} holds"):
                open_bundle(bundle, verify).router()
    assert check_bundle(whole)


def test_in_fewer_bits_a_number_that_becomes_infinite_is_refused(tiny: ModuleType, tmp_path: Path) -> None:
    file = "adapters/tools_adapter.safetensors"
    bundle = tiny.make(tmp_path / "bundle")
    tensors = load_file(bundle / file)
    name = min(tensors)
    tensors[name].view(-1)[0] = 1e6
    save_file(tensors, bundle / file)
    tiny.relist(bundle)
    opened = open_bundle(bundle)
    opened.add_adapter(opened.model(), "tools")
    with pytest.raises(ModelError, match=f"{file}: {name} holds NaN or infinity"):
        opened.add_adapter(opened.model(dtype=torch.float16), "tools")
