"""manifest.json: size and SHA-256 of every file, and whose weights each profile was measured on.

How long profiling took stands here and nowhere else: the files that are hashed depend on what was measured alone.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nexus_core.profiling.artifacts.formats import read_json, restore, write_json
from nexus_core.profiling.artifacts.layout import MANIFEST, ArtifactError, is_artifact, locate, profile_folder

MAX_BYTES = 1 << 26  # of a manifest: half a million files
_HINT = "restore it from a copy, or remove the directory and profile again"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file."""

    sha256: str
    size: int

    @classmethod
    def of(cls, content: bytes) -> Entry:
        return cls(hashlib.sha256(content).hexdigest(), len(content))


@dataclass(frozen=True, slots=True)
class ProfileEntry:
    """One profile: the teacher's weights, and the seconds that it took."""

    weights_hash: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Manifest:
    """Files by path, profiles by (teacher, capability)."""

    files: Mapping[str, Entry] = field(default_factory=dict)
    profiles: Mapping[tuple[str, str], ProfileEntry] = field(default_factory=dict)

    def encode(self) -> bytes:
        profiles: dict[str, dict[str, ProfileEntry]] = {}
        for (teacher, capability), entry in sorted(self.profiles.items()):
            profiles.setdefault(teacher, {})[capability] = entry
        return write_json({"version": 1, "files": dict(sorted(self.files.items())), "profiles": profiles})


def read_manifest(root: Path) -> Manifest | None:
    """The manifest of an output directory; None when there is none."""
    path = locate(root, MANIFEST)
    if not path.exists():
        return None
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
        raise ArtifactError(f"{path} is not a manifest", _HINT)
    data = read_json(str(path), path.read_bytes())
    try:
        return _parse(data)
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ArtifactError(f"{path} is damaged: {error}", _HINT) from error


def _parse(data: dict[str, Any]) -> Manifest:
    if data["version"] != 1:
        raise ValueError(f"version {data['version']!r:.20} is unknown")
    files = {path: restore(Entry, entry) for path, entry in data["files"].items()}
    for path, entry in files.items():
        if not is_artifact(path) or path == MANIFEST:
            raise ArtifactError(f'the manifest names "{path[:120]}", which is not the path of an artifact', _HINT)
        if not re.fullmatch("[0-9a-f]{64}", entry.sha256):
            raise ValueError(f"the hash of {path} is none")
    profiles = {}
    for teacher, of_teacher in data["profiles"].items():
        for capability, entry in of_teacher.items():
            profile_folder(teacher, capability)
            profiles[teacher, capability] = restore(ProfileEntry, entry)
    return Manifest(files, profiles)
