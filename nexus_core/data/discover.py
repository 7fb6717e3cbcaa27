"""Find the files of a dataset: one file, a folder (recursive, sorted), or what lies behind an fsspec URL.

Everything left out of a folder is counted by reason, so that nothing disappears without a word. A single file that the
user named is read or refused, never skipped.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast
from urllib.parse import unquote

from nexus_core.data.blob import Blob, local_blob
from nexus_core.data.guard import refuse_pickle, refuse_split
from nexus_core.data.kinds import reader_key
from nexus_core.data.layouts import Transcripts, dress
from nexus_core.data.optional import need
from nexus_core.data.readers import READERS
from nexus_core.data.records import LoaderOptions
from nexus_core.data.uncensored import lies_in_uncensored, refuse_uncensored, uncensored_error
from nexus_core.data.walk import (
    HEAD_BYTES,
    Walk,
    allowed_roots,
    is_model_folder,
    leads_inside,
    read_start,
    refuse_other_modality,
)
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


def discover(source: str, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    """The files of `source`; `DataError` when there is nothing to read."""
    if source.startswith("file://"):
        source = unquote(source.removeprefix("file://"))
    if "://" in source:
        return _remote(source, options, allow_uncensored)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder", "check the path: it is used exactly as given")
    refuse_uncensored(source, path, allow_uncensored)
    if path.is_dir():
        return _folder(path, options, allow_uncensored)
    roots = allowed_roots(path.parent)
    return _single(local_blob(path), options, lambda name: _neighbour(Path(name), roots))


def because(skipped: Counter[str]) -> str:
    """The commonest reasons for which something was left out, for a message."""
    reasons = ", ".join(f"{n} {reason}" for reason, n in skipped.most_common(8))
    return f" (left out: {reasons})" if reasons else ""


def understood() -> str:
    """The hint that lists the formats."""
    return f"formats understood: {' '.join(sorted(k for k in READERS if k.startswith('.')))}"


def _single(blob: Blob, options: LoaderOptions, sibling: Callable[[str], Blob | None]) -> FileSet:
    refuse_split(blob.name)
    refuse_pickle(blob.name)
    kind = reader_key(blob.name)
    if kind == "tfevents" and not options.tensorboard:
        raise DataError(f"{blob.name}: a TensorBoard event file", "pass LoaderOptions(tensorboard=True) to read it")
    if kind not in READERS:
        raise DataError(f"{blob.name}: files of type {kind or '(no suffix)'} are not read", understood())
    refuse_other_modality(blob.name, options.modality)
    dressed = dress(blob, sibling)
    return FileSet(blob.name, [blob.name], lambda _: dressed)


def _folder(root: Path, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    if is_model_folder([entry.name for entry in root.iterdir()], lambda: read_start(root / "config.json")):
        raise DataError(f"{root}: this is a model folder, not a dataset", "pass a folder or file with data")
    walk = Walk(options, allow_uncensored, lambda name: read_start(root / name))
    walk.local(root)
    roots = allowed_roots(root)
    transcripts = Transcripts(walk.tables, lambda name: local_blob(root / name), root.as_posix())

    def sibling(name: str) -> Blob | None:
        return _neighbour(Path(name), roots)

    return _checked(root.as_posix(), walk, lambda name: dress(local_blob(root / name), sibling, transcripts))


def _neighbour(path: Path, roots: Sequence[Path]) -> Blob | None:
    """The file beside another one; None when there is none, or when it is a link that leaves the dataset."""
    return local_blob(path) if path.is_file() and leads_inside(path.resolve(), roots) else None


def _remote(url: str, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    if not allow_uncensored and lies_in_uncensored([part for part in url.split("/") if part], 2):
        raise uncensored_error(url)
    filesystem, root = _filesystem(url)
    protocol = url.split("://", 1)[0]

    def blob(path: str) -> Blob:
        def opener() -> BinaryIO:
            return cast(BinaryIO, filesystem.open(path, "rb"))

        size = filesystem.size(path)
        return Blob(f"{protocol}://{path.lstrip('/')}", opener, -1 if size is None else int(size))

    if filesystem.isfile(root):
        return _single(blob(root), options, lambda _: None)
    base = root.rstrip("/") + "/"
    paths = [path.removeprefix(base) for path in sorted(filesystem.find(root))]
    walk = Walk(
        options, allow_uncensored, lambda name: bytes(filesystem.cat_file(base + name, start=0, end=HEAD_BYTES))
    )
    walk.remote(paths)
    shown = f"{protocol}://{base.lstrip('/')}"
    transcripts = Transcripts(walk.tables, lambda name: blob(base + name), shown)

    def sibling(name: str) -> Blob | None:
        path = base + name.removeprefix(shown)
        return blob(path) if filesystem.isfile(path) else None

    return _checked(url, walk, lambda name: dress(blob(base + name), sibling, transcripts))


def _checked(root: str, walk: Walk, opener: Callable[[str], Blob]) -> FileSet:
    if not walk.names:
        raise DataError(f"{root}: no data files{because(walk.skipped)}", understood())
    return FileSet(root, walk.names, opener, walk.skipped)


def _filesystem(url: str) -> tuple[Any, str]:
    fsspec = need("fsspec", "read URLs")
    protocol = url.split("://", 1)[0]
    try:
        filesystem, root = fsspec.url_to_fs(url)
    except ImportError as error:
        package = "huggingface_hub" if protocol == "hf" else f'"fsspec[{protocol}]"'
        raise DataError(f"{url}: {protocol}:// needs another library: {error}", f"pip install {package}") from None
    except ValueError as error:
        raise DataError(f"{url}: {error}", "use a path, or a URL such as file://, memory:// or hf://") from None
    return filesystem, str(root)
