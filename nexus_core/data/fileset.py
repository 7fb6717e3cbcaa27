"""The files of a dataset: their names, how to open one, and what was left out."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from nexus_core.data.blob import Blob
from nexus_core.data.guard import refuse_pickle, refuse_split
from nexus_core.data.kinds import reader_key
from nexus_core.data.layouts import dress
from nexus_core.data.readers import READERS
from nexus_core.data.records import LoaderOptions
from nexus_core.data.walk import Walk, refuse_other_modality
from nexus_core.errors import DataError


@dataclass(frozen=True, slots=True)
class FileSet:
    """The files of a dataset in sorted order, and how to open one. Only the names are held, about 100 bytes each."""

    root: str
    names: Sequence[str]
    opener: Callable[[str], Blob]
    skipped: Counter[str] = field(default_factory=Counter)

    @property
    def digest(self) -> str:
        """Identifies the list of files: a position is only good for the same list."""
        hashed = hashlib.blake2b(digest_size=8)
        for name in self.names:
            hashed.update(name.encode("utf-8", "surrogateescape") + b"\0")
        return hashed.hexdigest()


def single(blob: Blob, options: LoaderOptions, sibling: Callable[[str], Blob | None]) -> FileSet:
    """The one file that the user named: whatever is wrong with it is an error, never a skip."""
    refuse_split(blob.name)
    refuse_pickle(blob.name)
    kind = reader_key(blob.name)
    if kind == "tfevents" and not options.tensorboard:
        raise DataError(
            f"{blob.name}: a TensorBoard event file",
            "export it as CSV (or, from Python, pass LoaderOptions(tensorboard=True))",
        )
    if kind not in READERS:
        raise DataError(f"{blob.name}: files of type {kind or '(no suffix)'} are not read", understood())
    refuse_other_modality(blob.name, options.modality)
    dressed = dress(blob, sibling)
    return FileSet(blob.name, [blob.name], lambda _: dressed)


def walked(root: str, walk: Walk, opener: Callable[[str], Blob]) -> FileSet:
    """What a walk has found; `DataError` when that is nothing."""
    if not walk.names:
        raise DataError(f"{root}: no data files{because(walk.skipped)}", understood())
    return FileSet(root, walk.names, opener, walk.skipped)


def because(skipped: Counter[str]) -> str:
    """The commonest reasons for which something was left out, for a message."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in skipped.most_common(8))
    return f" (left out: {reasons})" if reasons else ""


def understood() -> str:
    """The hint that lists the formats."""
    return f"formats understood: {' '.join(sorted(k for k in READERS if k.startswith('.')))}"
