"""Walk a folder of data: what is a data file, what is left out and why."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from nexus_core.data.guard import PICKLES, refuse_split
from nexus_core.data.kinds import modality_of, reader_key
from nexus_core.data.layouts import is_transcript_table
from nexus_core.data.readers import READERS
from nexus_core.data.records import LoaderOptions
from nexus_core.data.uncensored import card_says_uncensored, lies_in_uncensored
from nexus_core.errors import DataError
from nexus_core.uncensored import is_named_uncensored

LEFTOVER_FOLDERS = frozenset({".cache", ".git", "__MACOSX", "__pycache__", ".ipynb_checkpoints"})
LEFTOVER_SUFFIXES = (".metadata", ".incomplete", ".lock")
SIDECARS = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})
WEIGHTS = (".safetensors", ".gguf", ".nemo")
HEAD_BYTES = 1 << 20


def refuse_other_modality(name: str, wanted: str | None) -> None:
    """`DataError` when a file is audio, say, where text is expected."""
    kind = modality_of(name) or wanted
    if wanted and kind != wanted:
        raise DataError(f"{name}: this is {kind}, and {wanted} is expected", f"pass {wanted} data")


@dataclass(slots=True)
class Walk:
    """Collects the names of data files under one root, and counts the rest.

    `read` gives the first bytes of a file by its name below the root. `tables` are the transcript tables by folder.
    """

    options: LoaderOptions
    allow_uncensored: bool
    read: Callable[[str], bytes]
    names: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    tables: dict[str, list[str]] = field(default_factory=dict)

    def local(self, root: Path) -> None:
        """Everything under `root`: the files of a folder in sorted order, then its sub-folders in sorted order."""
        links = allowed_roots(root)
        pending = [""]
        while pending:
            below = pending.pop()
            with os.scandir(root / below) as scanned:
                entries = sorted(scanned, key=lambda entry: entry.name)
            folders = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
            files = [e.name for e in entries if not e.is_dir(follow_symlinks=False) and self._usable(e, links)]
            if self._is_left_out(below, files):
                continue
            self.take(below, files)
            pending.extend(f"{below}{name}/" for name in reversed(folders) if self._enters(name))

    def remote(self, paths: Sequence[str]) -> None:
        """The same for the sorted `paths` below a root, as archives and object stores give them."""
        by_folder: dict[str, list[str]] = {}
        for path in paths:
            folder, slash, name = path.rpartition("/")
            by_folder.setdefault(folder + slash, []).append(name)
        left_out: list[str] = []
        for below, names in sorted(by_folder.items()):
            if any(map(below.startswith, left_out)):
                continue
            parts = below.split("/")[:-1]
            barred = next((i for i, part in enumerate(parts) if not self._enters(part)), None)
            if barred is not None:
                left_out.append("/".join(parts[: barred + 1]) + "/")
            elif self._is_left_out(below, names):
                left_out.append(below)
            else:
                self.take(below, names)

    def take(self, below: str, names: Sequence[str]) -> None:
        """The data files among `names`, all in one folder."""
        captions = {f"{PurePosixPath(n).stem}.txt" for n in names if modality_of(n) == "image"}
        for name in names:
            if name in captions:
                continue  # read with its image
            reason = self._reason(name)
            if reason:
                self.skipped[reason] += 1
            elif name.endswith(".tsv") and is_transcript_table(self.read(below + name)):
                self.tables.setdefault(below, []).append(name)
            else:
                self.names.append(below + name)

    def _reason(self, name: str) -> str:
        """Why a file is left out, "" when it is read."""
        kind = reader_key(name)
        if name.startswith(".") or name.endswith(LEFTOVER_SUFFIXES):
            return "hub leftover or hidden file"
        if not self.allow_uncensored and is_named_uncensored([name]):
            return "uncensored"
        refuse_split(name)
        if kind == "tfevents":
            return "" if self.options.tensorboard else "TensorBoard events"
        if kind in PICKLES:
            return f"pickle refused ({kind})"
        if name in SIDECARS:
            return "dataset metadata"
        if kind not in READERS:
            return f"not a data file ({kind or 'no suffix'})"
        wanted = self.options.modality
        found = modality_of(name)
        return f"{found}, not {wanted}" if wanted and found and found != wanted else ""

    def _enters(self, name: str) -> bool:
        if name in LEFTOVER_FOLDERS or name.startswith("."):
            self.skipped["hub leftover or hidden folder"] += 1
            return False
        if not self.allow_uncensored and is_named_uncensored([name]):
            self.skipped["uncensored"] += 1
            return False
        return True

    def _is_left_out(self, below: str, files: Sequence[str]) -> bool:
        if is_model_folder(files, lambda: self.read(f"{below}config.json")):
            self.skipped["model folder"] += 1
            return True
        if not self.allow_uncensored and "README.md" in files and card_says_uncensored(self.read(f"{below}README.md")):
            self.skipped["uncensored"] += 1
            return True
        return False

    def _usable(self, entry: os.DirEntry[str], roots: Sequence[Path]) -> bool:
        if not entry.is_symlink():
            if not entry.is_file():
                self.skipped["not a regular file"] += 1
                return False
            return True
        reason = ""
        target = Path(os.path.realpath(entry.path))
        if not target.exists():
            reason = "broken link"
        elif target.is_dir():
            reason = "link to a folder"
        elif not target.is_file() or not leads_inside(target, roots):
            reason = "link out of the dataset"
        elif not self.allow_uncensored and lies_in_uncensored(target.parts, 2):
            reason = "uncensored"
        if reason:
            self.skipped[reason] += 1
        return not reason


def allowed_roots(root: Path) -> list[Path]:
    """Where links may lead: the dataset itself, and the blobs of a hub cache that it is a snapshot of."""
    real = root.resolve()
    snapshots = [folder.parent for folder in (real, *real.parents) if folder.parent.name == "snapshots"]
    return [real, *(folder.parent / "blobs" for folder in snapshots)]


def leads_inside(target: Path, roots: Sequence[Path]) -> bool:
    """Whether a resolved path lies under one of `roots`."""
    return any(target.is_relative_to(root) for root in roots)


def is_model_folder(files: Sequence[str], read_config: Callable[[], bytes]) -> bool:
    """Whether the files of a folder are a model's, which a data folder may contain."""
    if "model_index.json" in files or any(f.endswith(WEIGHTS) or f.startswith("pytorch_model") for f in files):
        return True
    if "config.json" not in files:
        return False
    try:
        config: Any = json.loads(read_config())
    except ValueError:
        return False  # not a model's configuration; if it is data, its reader will say what is wrong
    return isinstance(config, dict) and ("model_type" in config or "architectures" in config)


def read_start(path: Path) -> bytes:
    """The first bytes of a file."""
    with path.open("rb") as stream:
        return stream.read(HEAD_BYTES)
