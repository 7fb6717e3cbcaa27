"""Checkpoints of one adapter's training: what is needed to go on as if nothing had happened.

    <folder>/00000120/weights.safetensors     what is trained, by the student's parameter names
    <folder>/00000120/optimizer.safetensors   its state, AdamW's or the 8-bit one's
    <folder>/00000120/rng.safetensors         generators of the CPU and of each GPU
    <folder>/00000120/checkpoint.json         step, position, recovery, journal offsets, and the SHA-256 of the three
    <folder>/index.json                       which step is the latest, which is the best, and one older one of each

A checkpoint is written under a temporary name and renamed, and only then the index is replaced: killed at any moment, the
folder holds the old state or the new one. `latest` and `best` change in that one file, so that what a resumed run goes
back to is what the undisturbed run would have gone back to. A file that does not have its hash makes the reader name
the checkpoint and take the one before.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from nexus_core.atomic import make_directory, sync_directory, write_atomic, writing
from nexus_core.errors import DataError

VERSION = 1
INDEX = "index.json"
META = "checkpoint.json"
KEPT = 2  # of the latest, and of the best: the one in force and one older
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Meta:
    """Everything of a checkpoint that is not a tensor. `identity` is the hash of what decides the run."""

    identity: str
    step: int
    position: int
    phase: int
    state: Mapping[str, Any] = field(default_factory=dict)  # recovery, retention: plain JSON
    journal: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One moment of a training, in memory."""

    meta: Meta
    weights: Mapping[str, torch.Tensor]
    optimizer: Mapping[str, torch.Tensor]
    rng: Mapping[str, torch.Tensor]


class Checkpoints:
    """The checkpoints in one folder. `damaged` names those that could not be read, and why."""

    def __init__(self, folder: Path, identity: str) -> None:
        self.folder = folder
        self.identity = identity
        self.damaged: list[str] = []

    def save(self, checkpoint: Checkpoint, best: bool) -> None:
        """Write it as the latest, and as the best if it is."""
        make_directory(self.folder)
        name = f"{checkpoint.meta.step:08d}"
        temporary = self.folder / f".{name}.tmp"
        shutil.rmtree(temporary, ignore_errors=True)  # what a killed writer left
        with writing(self.folder):
            temporary.mkdir()
            _write(temporary, checkpoint)
            shutil.rmtree(self.folder / name, ignore_errors=True)  # a damaged one of the same step
            os.replace(temporary, self.folder / name)
            sync_directory(self.folder)
        index = self._index()
        self._commit({key: _first(name, index[key]) if key == "latest" or best else index[key] for key in index})

    def latest(self) -> Checkpoint | None:
        """Where to go on: the newest that can be read. From here on the folder knows no later one.

        None when there is none at all; DataError when all of them are damaged, or are of another run.
        """
        index = self._index()
        names = sorted({*index["latest"], *index["best"]}, reverse=True)
        found = next(self._readable(names), None)
        if found is None:
            if names:
                raise DataError(f"no checkpoint in {self.folder} can be used: {'; '.join(self.damaged)}", _FRESH)
            return None
        step = f"{found.meta.step:08d}"
        kept = {key: [name for name in index[key] if name <= step] for key in index}
        self._commit({"latest": _first(step, kept["latest"]), "best": kept["best"] or [step]})
        return found

    def best(self, phase: int) -> Checkpoint:
        """The best one of a phase; when it is damaged, the one before, and at last the latest."""
        index = self._index()
        names = [*index["best"], *(name for name in index["latest"] if name not in index["best"])]
        found = next((c for c in self._readable(names) if c.meta.phase == phase), None)
        if found is None:
            reasons = "; ".join(self.damaged) or "there is none of this phase"
            raise DataError(f"no checkpoint in {self.folder} can be gone back to: {reasons}", _FRESH)
        return found

    def _readable(self, names: list[str]) -> Iterator[Checkpoint]:
        for name in names:
            try:
                yield read_checkpoint(self.folder / name, self.identity)
            except DataError as error:
                self.damaged.append(error.message)

    def _index(self) -> dict[str, list[str]]:
        path = self.folder / INDEX
        if not path.exists():
            return {"latest": [], "best": []}
        try:
            raw = json.loads(path.read_bytes())
            index = {key: [str(name) for name in raw[key]] for key in ("latest", "best")}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path} is damaged: {error}", _FRESH) from error
        if strange := [name for names in index.values() for name in names if not _is_name(name)]:
            raise DataError(f"{path} names {strange[0]!r}, which is no checkpoint", _FRESH)
        return index

    def _commit(self, index: Mapping[str, list[str]]) -> None:
        write_atomic(self.folder / INDEX, (json.dumps(index, sort_keys=True) + "\n").encode())
        named = {name for names in index.values() for name in names}
        for path in self.folder.iterdir():
            if path.is_dir() and path.name not in named:
                shutil.rmtree(path)


_FRESH = "delete that folder to train this adapter from its start"


def _first(name: str, names: list[str]) -> list[str]:
    return [name, *(other for other in names if other != name)][:KEPT]


def _is_name(name: str) -> bool:
    return len(name) == 8 and name.isascii() and name.isdecimal()


def _write(folder: Path, checkpoint: Checkpoint) -> None:
    from safetensors.torch import save

    hashes = {}
    for part in ("weights", "optimizer", "rng"):
        # Clones: safetensors refuses tensors that share memory, as the 8-bit optimizer's quantisation maps do.
        tensors = {
            key: value.detach().to("cpu").clone().contiguous() for key, value in getattr(checkpoint, part).items()
        }
        content = save(tensors)
        hashes[part] = hashlib.sha256(content).hexdigest()
        _write_synced(folder / f"{part}.safetensors", content)
    meta = asdict(checkpoint.meta)
    hashes["meta"] = _meta_hash(meta)
    raw = {"version": VERSION, "meta": meta, "sha256": hashes}
    _write_synced(folder / META, (json.dumps(raw, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
    sync_directory(folder)


def _meta_hash(meta: Any) -> str:
    return hashlib.sha256(json.dumps(meta, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _write_synced(path: Path, content: bytes) -> None:
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def read_checkpoint(folder: Path, identity: str) -> Checkpoint:
    """One checkpoint, every byte of its tensors checked; DataError names the file that is not as it was written."""
    from safetensors.torch import load

    try:
        raw = json.loads((folder / META).read_bytes())
        version, hashes, meta = raw["version"], dict(raw["sha256"]), raw["meta"]
        parts = {part: (folder / f"{part}.safetensors").read_bytes() for part in ("weights", "optimizer", "rng")}
        found = {
            "meta": _meta_hash(meta),
            **{part: hashlib.sha256(content).hexdigest() for part, content in parts.items()},
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the checkpoint {folder} is damaged: {error}", _FRESH) from error
    if wrong := [part for part, digest in found.items() if hashes.get(part) != digest]:
        raise DataError(f"the checkpoint {folder} is damaged: {wrong[0]} does not have its SHA-256", _FRESH)
    if version != VERSION:
        raise DataError(f"the checkpoint {folder} is of another version of Nexus", _FRESH)
    if meta["identity"] != identity:
        raise DataError(f"the checkpoint {folder} is of a run with other settings or other data", _FRESH)
    return Checkpoint(Meta(**meta), **{part: load(content) for part, content in parts.items()})


# --- what is in one ----------------------------------------------------------------------------------------------------


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> Tensors:
    """The state of an optimizer as flat tensors: "3/exp_avg". Rates and decays are not state: settings decide them."""
    return {
        "/".join(path): value if isinstance(value, torch.Tensor) else torch.tensor(value)
        for path, value in _leaves(optimizer.state_dict()["state"], ())
    }


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, torch.Tensor]) -> None:
    """Put that state back; what it held before is gone."""
    state: dict[Any, Any] = {}
    for key, value in tensors.items():
        first, *path = key.split("/")
        here = state.setdefault(int(first), {})
        for part in path[:-1]:
            here = here.setdefault(part, {})
        # A plain number (the 8-bit optimizer counts its steps in one) was stored as a 64-bit integer.
        here[path[-1]] = int(value) if value.dtype == torch.int64 and value.ndim == 0 else value.clone()
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _leaves(tree: Mapping[Any, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), value


def load_weights(parameters: Mapping[str, torch.nn.Parameter], weights: Mapping[str, torch.Tensor]) -> None:
    """Put trained weights back in place: the very names and shapes, or DataError."""
    if sorted(parameters) != sorted(weights):
        differing = sorted(set(parameters) ^ set(weights))
        raise DataError(f"the checkpoint and the student differ in {', '.join(differing[:3])}", _FRESH)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if parameter.shape != weights[name].shape:
                raise DataError(f"{name} is {tuple(weights[name].shape)} in the checkpoint", _FRESH)
            parameter.copy_(weights[name])


def rng_tensors() -> Tensors:
    """The state of the generators that torch draws from by default."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda.{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def load_rng(tensors: Mapping[str, torch.Tensor]) -> None:
    """Put the generators back; those of a GPU that is not here are left."""
    torch.set_rng_state(tensors["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if (state := tensors.get(f"cuda.{index}")) is not None:
                torch.cuda.set_rng_state(state, index)
