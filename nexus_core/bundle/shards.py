"""Tensors over several files, in the layout that Hugging Face gave large checkpoints.

NAME.safetensors becomes NAME-00001-of-00002.safetensors, ... and NAME.safetensors.index.json, which says where each is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from nexus_core.atomic import write_atomic
from nexus_core.bundle.disk import RESTORE, json_object, read_bytes
from nexus_core.bundle.manifest import INDEX, FileFacts
from nexus_core.bundle.tensors import Tensors, read_tensors
from nexus_core.errors import ModelError

PART = ".safetensors"


def shard_name(name: str, number: int, count: int) -> str:
    """The file of one shard, counted from 1."""
    return f"{name.removesuffix(PART)}-{number:05d}-of-{count:05d}{PART}"


def files_of(name: str, files: Mapping[str, FileFacts]) -> list[str]:
    """The listed files that hold these tensors: one, or an index with its shards."""
    if name + INDEX not in files:
        return [name]
    pattern = re.compile(re.escape(name.removesuffix(PART)) + r"-\d{5}-of-\d{5}" + re.escape(PART))
    return [name + INDEX, *sorted(other for other in files if pattern.fullmatch(other))]


def read_sharded(path: Path, name: str, files: Mapping[str, FileFacts], verify: bool = True) -> Tensors:
    """All tensors of `name`, however many files they are in."""
    if name + INDEX not in files:
        return read_tensors(path, name, files, verify)[0]
    index, *shards = files_of(name, files)
    where = _weight_map(read_bytes(path, index, files, verify), path / index)
    folder = name.rpartition("/")[0]
    if different := sorted({f"{folder}/{shard}" for shard in where.values()} ^ set(shards)):
        raise ModelError(f"{path / index} and the manifest disagree about {different[0]}", RESTORE)
    tensors: Tensors = {}
    for shard in shards:
        for key, tensor in read_tensors(path, shard, files, verify)[0].items():
            if where.get(key) != shard.rpartition("/")[2]:
                raise ModelError(f"{path / shard} holds {key!r}, which {index} does not expect there", RESTORE)
            tensors[key] = tensor
    if missing := sorted(set(where) - set(tensors)):
        raise ModelError(f"{path / index} names {missing[0]!r}, which is in no shard", RESTORE)
    return tensors


def _weight_map(raw: bytes, where: Path) -> dict[str, str]:
    values = json_object(raw, where).get("weight_map")
    if not isinstance(values, dict) or not all(isinstance(shard, str) for shard in values.values()):
        raise ModelError(f"{where} is no index of shards", RESTORE)
    return values


def split(tensors: Mapping[str, torch.Tensor], limit: int) -> list[Tensors]:
    """By name, into shares of at most `limit` bytes; a tensor that is larger than that has a share of its own."""
    shares: list[Tensors] = [{}]
    room = limit
    for name in sorted(tensors):
        size = tensors[name].nbytes
        if size > room and shares[-1]:
            shares.append({})
            room = limit
        shares[-1][name] = tensors[name]
        room -= size
    return shares


def write_sharded(folder: Path, name: str, tensors: Mapping[str, torch.Tensor], limit: int) -> None:
    """One file, or several and their index. The same tensors give the same bytes."""
    shares = split({key: t.detach().cpu().contiguous() for key, t in tensors.items()}, limit)
    where = folder / name
    where.parent.mkdir(parents=True, exist_ok=True)
    if len(shares) == 1:
        _save(where, shares[0])
        return
    weight_map: dict[str, str] = {}
    for number, share in enumerate(shares, 1):
        shard = shard_name(name, number, len(shares))
        _save(folder / shard, share)
        weight_map |= dict.fromkeys(share, shard.rpartition("/")[2])
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    write_atomic(folder / (name + INDEX), (json.dumps(index, indent=2, sort_keys=True) + "\n").encode())


def _save(where: Path, tensors: Tensors) -> None:
    save_file(tensors, where)
    where.chmod(0o644)  # safetensors leaves a file that only its owner may read
