"""What must hold of a checkpoint's files before transformers may open any of them.

A model directory is somebody else's data. Only safetensors inside it are read: a pickle can run code, an index can name a
pickle or a file elsewhere, an adapter's config can send transformers to another model, and a pipe never ends.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from nexus_core.errors import ModelError

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def refuse_unsafe(path: Path) -> None:
    """Every file regular, no adapter, safetensors whole, and an index that names only them."""
    entries = sorted(path.iterdir())
    for entry in entries:
        if not entry.is_file() and (not entry.is_dir() or entry.suffix in {".safetensors", ".json"}):
            raise ModelError(f"{entry}: not a regular file", "restore it from where the model came")
    if (path / "adapter_config.json").exists():
        raise ModelError(
            f"{path}: holds an adapter (adapter_config.json), and transformers would load the base model that it names",
            "merge the adapter into its base model and save that",
        )
    weights = [entry for entry in entries if entry.suffix == ".safetensors"]
    if not weights:
        pickles = [entry.name for entry in entries if entry.suffix in PICKLES]
        what = f"only pickled weights ({', '.join(pickles)})" if pickles else "no *.safetensors file"
        raise ModelError(f"{path}: {what}", "convert the checkpoint to safetensors where you trust it")
    _check_headers(weights)
    _check_index(path / "model.safetensors.index.json", {shard.name for shard in weights})


def _check_headers(weights: Sequence[Path]) -> None:
    """A truncated or damaged shard is named before anything is allocated for it."""
    from safetensors import SafetensorError, safe_open

    for shard in weights:
        try:
            with safe_open(shard, framework="pt") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise ModelError(f"{shard}: {error}", f"download {shard.name} again") from error


def _check_index(index: Path, shards: set[str]) -> None:
    if not index.exists():
        return
    hint = f"download {index.name} again"
    try:
        named = set(json.loads(index.read_bytes())["weight_map"].values())
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{index}: no index of shards ({type(error).__name__}: {error})", hint) from error
    if not named:
        raise ModelError(f"{index}: its weight_map is empty", hint)
    if strangers := sorted(str(name) for name in named - shards):
        raise ModelError(f"{index}: names {strangers[0]!r}, which is no safetensors file of this directory", hint)
