"""Is every file there, unchanged, and of the teacher under whose name it lies?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import yaml

from nexus_core.profiling.artifacts.codec import Owner, decode, owner_in
from nexus_core.profiling.artifacts.layout import (
    MANIFEST,
    PLANS,
    PROFILES,
    SCORES,
    TOP_LEVEL,
    ArtifactError,
    locate,
    owner_of,
    plan_file,
    profile_folder,
)
from nexus_core.profiling.artifacts.manifest import Entry, Manifest
from nexus_core.profiling.artifacts.scores import decode_reference

MAX_BYTES = 1 << 28  # of one file: eight times the largest basis that profiling makes


class FindingKind(StrEnum):
    """What can be wrong with an artifact."""

    MISSING = "missing"
    CORRUPT = "corrupt"
    EXTRA = "extra"
    FOREIGN = "foreign"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, at one path below the output directory."""

    kind: FindingKind
    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.path}: {self.message}"


def look(root: Path, path: str, entry: Entry | None, owner: Owner | None = None) -> tuple[bytes, Finding | None]:
    """Content of a file, and what is wrong with it; `owner` is whose it must say that it is."""
    try:
        file = locate(root, path)
    except ArtifactError as error:
        return b"", Finding(FindingKind.CORRUPT, path, error.message)
    if entry is None:
        return b"", Finding(FindingKind.MISSING, path, "the manifest does not list it")
    if not file.is_file():
        return b"", Finding(FindingKind.MISSING, path, "the manifest lists it, and it is not there")
    size = file.stat().st_size
    content = file.read_bytes() if size <= MAX_BYTES else b""
    said = _owner(path, content) if owner else None
    if owner and said and said != owner:
        return b"", Finding(FindingKind.FOREIGN, path, f"it belongs to {_name(said)}, not to {_name(owner)}")
    if Entry.of(content) != entry:
        change = f"{size} bytes instead of {entry.size}" if size != entry.size else "its SHA-256 is another"
        return b"", Finding(FindingKind.CORRUPT, path, f"changed since it was written: {change}")
    return content, None


def files_of(manifest: Manifest, teacher: str, capability: str) -> tuple[str, ...]:
    """Paths of one profile's files."""
    return tuple(path for path in manifest.files if owner_of(path) == (teacher, capability))


def look_at_profile(root: Path, manifest: Manifest, key: tuple[str, str]) -> tuple[dict[str, bytes], list[Finding]]:
    """The files of one profile's folder by name, and what is wrong with them or with its plan."""
    folder, plan = profile_folder(*key), plan_file(*key)
    owner = (*key, manifest.profiles[key].weights_hash)
    files: dict[str, bytes] = {}
    findings: list[Finding] = []
    for path in sorted({*files_of(manifest, *key), plan}):
        content, finding = look(root, path, manifest.files.get(path), owner)
        if finding:
            findings.append(finding)
        elif path != plan:
            files[path.rsplit("/", 1)[1]] = content
    if not findings:
        try:
            decode(folder, files, 0.0)
            if SCORES in files:
                decode_reference(f"{folder}/{SCORES}", files[SCORES])
        except ArtifactError as error:
            findings.append(Finding(FindingKind.CORRUPT, folder, error.message))
    return files, findings


def inspect(root: Path, manifest: Manifest, weights: Mapping[str, str]) -> Iterator[Finding]:
    """Everything that is wrong; `weights` gives, for teachers that are at hand, the hash that theirs have now."""
    for key, entry in sorted(manifest.profiles.items()):
        if weights.get(key[0], entry.weights_hash) != entry.weights_hash:
            message = f"measured on weights {entry.weights_hash[:12]}, the teacher's are {weights[key[0]][:12]}"
            yield Finding(FindingKind.FOREIGN, profile_folder(*key), message)
        yield from look_at_profile(root, manifest, key)[1]
    for name in TOP_LEVEL:
        finding = look(root, name, manifest.files.get(name))[1]
        if finding:
            yield finding
    for path in manifest.files:
        if (owner := owner_of(path)) and owner not in manifest.profiles:
            yield Finding(FindingKind.FOREIGN, path, "the manifest knows no such profile")
    yield from extras(root, manifest)


def extras(root: Path, manifest: Manifest | None) -> Iterator[Finding]:
    """Files that nobody listed. Other directories beside `profiles` (a cache) belong to others and are not looked at."""
    known = {*manifest.files, MANIFEST} if manifest else {MANIFEST}
    found = [path for path in root.iterdir() if path.is_file() and not path.name.startswith(".")]
    for folder in (root / PROFILES, root / PLANS):
        found += [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in sorted(str(path.relative_to(root)) for path in found):
        if path not in known:
            yield Finding(FindingKind.EXTRA, path, "the manifest does not list it")


def _owner(path: str, content: bytes) -> Owner | None:
    """Whose file it says it is; None when it cannot say: what is wrong then shows in its hash, or when it is read."""
    try:
        return owner_in(path, content)
    except (ArtifactError, KeyError, TypeError, ValueError, RecursionError, yaml.YAMLError):
        return None


def _name(owner: Owner) -> str:
    return f"{owner[0]}/{owner[1]} (weights {owner[2][:12]})"
