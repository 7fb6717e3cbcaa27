"""A bundle's directory as hostile input: regular files only, none that the manifest does not list, none from elsewhere."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

from nexus_core.bundle.manifest import MANIFEST, MAX_BYTES, FileFacts, Manifest, parse_manifest
from nexus_core.errors import DataError, ModelError

RESTORE = "get the bundle again from where it came"
VERSIONS = ".versions"  # of a bundle: the directory beside it with those that it has replaced
CHUNK = 1 << 20


def read_manifest(path: Path) -> Manifest:
    """The manifest of a bundle. Where there is none, there is no bundle."""
    where = path / MANIFEST
    if not path.is_dir():
        hint = "name the directory of a bundle (unpack it first, if it is a zip)"
        if path.name and path.with_name(path.name + VERSIONS).is_dir():
            hint = f"versions of it are kept: nexus bundle rollback {path} --list"
        raise ModelError(f"{path}: no such directory", hint)
    if not where.is_file() or where.is_symlink():
        raise DataError(f"{path} is not a bundle: it has no {MANIFEST}", "make one: nexus bundle build RUN --out DIR")
    with _regular(where) as file:
        return parse_manifest(file.read(MAX_BYTES + 1), str(where))


def survey(path: Path, manifest: Manifest) -> set[str]:
    """The listed files that are there. A stranger, a link or anything that is no plain file is an error."""
    found = {name for name in _walk(path, "") if name != MANIFEST}
    if strangers := sorted(found - set(manifest.files)):
        raise ModelError(f"{path / strangers[0]} is not listed in {MANIFEST}", "take it out of the bundle")
    return found


def _walk(folder: Path, inside: str) -> Iterator[str]:
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                raise ModelError(
                    f"{entry.path} is a symbolic link", "a bundle holds its own files; copy the file there"
                )
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(Path(entry.path), f"{inside}{entry.name}/")
            elif entry.is_file(follow_symlinks=False):
                yield inside + entry.name
            else:
                raise ModelError(f"{entry.path} is no regular file", RESTORE)


@contextmanager
def opened(path: Path, name: str, files: Mapping[str, FileFacts]) -> Iterator[BinaryIO]:
    """A listed file, at its listed size."""
    where = path / name
    try:
        with _regular(where) as file:
            size, listed = os.fstat(file.fileno()).st_size, files[name].bytes
            if size != listed:
                raise ModelError(f"{where} has {size:,} bytes; {MANIFEST} says {listed:,}", RESTORE)
            yield file
    except FileNotFoundError as error:
        raise ModelError(f"{where} is missing", RESTORE) from error


@contextmanager
def _regular(where: Path) -> Iterator[BinaryIO]:
    """Opened without following a link, and without waiting for a pipe."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(where, flags), "rb", buffering=0) as file:
        yield file


def check_hash(path: Path, name: str, files: Mapping[str, FileFacts], found: str) -> None:
    """`ModelError` that names the file unless this is its listed hash."""
    if found != files[name].sha256:
        raise ModelError(f"{path / name} was changed: its SHA-256 is not the one in {MANIFEST}", RESTORE)


def read_bytes(path: Path, name: str, files: Mapping[str, FileFacts], verify: bool = True) -> bytes:
    """A listed file whole: what is returned is what was hashed."""
    with opened(path, name, files) as file:
        raw = b"".join(iter(lambda: file.read(CHUNK), b""))
    if verify:
        check_hash(path, name, files, sha256(raw).hexdigest())
    return raw


def json_object(raw: bytes, where: Path) -> dict[str, Any]:
    """A listed JSON file's content."""
    try:
        values = json.loads(raw)
        if not isinstance(values, dict):
            raise ValueError(f"it holds a {type(values).__name__}")
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is no JSON object: {str(error)[:200]}", RESTORE) from error
    return values


def check_file(path: Path, name: str, files: Mapping[str, FileFacts]) -> None:
    """Hash a listed file without keeping it."""
    digest, block = sha256(), bytearray(CHUNK)
    with opened(path, name, files) as file:
        while read := file.readinto(block):  # type: ignore[attr-defined]
            digest.update(memoryview(block)[:read])
    check_hash(path, name, files, digest.hexdigest())
