"""Find the files of a dataset: one file, a folder (recursive, sorted), or what lies behind an fsspec URL.

Everything left out of a folder is counted by reason, so that nothing disappears without a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote

from nexus_core.data.blob import Blob, local_blob
from nexus_core.data.fileset import FileSet, single, walked
from nexus_core.data.layouts import Transcripts, dress
from nexus_core.data.records import LoaderOptions
from nexus_core.data.remote import remote
from nexus_core.data.uncensored import refuse_uncensored
from nexus_core.data.walk import Walk, allowed_roots, is_model_folder, leads_inside, read_start
from nexus_core.errors import DataError


def discover(source: str, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    """The files of `source`; `DataError` when there is nothing to read."""
    if source.startswith("file://"):
        source = unquote(source.removeprefix("file://"))
    if not source.strip():
        raise DataError("the path of the data is empty", "name a file or a folder; `.` is the current folder")
    if "://" in source:
        return remote(source, options, allow_uncensored)
    path = Path(source)
    if not path.exists():
        raise DataError(f"{source}: no such file or folder", "check the path: it is used exactly as given")
    refuse_uncensored(source, path, allow_uncensored)
    if path.is_dir():
        return _folder(path, options, allow_uncensored)
    if not path.is_file():  # a pipe would be waited on for ever, a device may have no end
        raise DataError(f"{source}: not a regular file", "write the data to a file first, then pass that")
    roots = allowed_roots(path.parent)
    return single(local_blob(path), options, lambda name: _neighbour(Path(name), roots))


def _folder(root: Path, options: LoaderOptions, allow_uncensored: bool) -> FileSet:
    if is_model_folder(
        [entry.name for entry in root.iterdir() if entry.is_file()], lambda: read_start(root / "config.json")
    ):
        raise DataError(f"{root}: this is a model folder, not a dataset", "pass a folder or file with data")
    walk = Walk(options, allow_uncensored, lambda name: read_start(root / name))
    walk.local(root)
    roots = allowed_roots(root)
    transcripts = Transcripts(walk.tables, lambda name: local_blob(root / name), root.as_posix())

    def sibling(name: str) -> Blob | None:
        return _neighbour(Path(name), roots)

    return walked(root.as_posix(), walk, lambda name: dress(local_blob(root / name), sibling, transcripts))


def _neighbour(path: Path, roots: Sequence[Path]) -> Blob | None:
    """The file beside another one; None when there is none, or when it is a link that leaves the dataset."""
    return local_blob(path) if path.is_file() and leads_inside(path.resolve(), roots) else None
