"""What differs between two bundles, by their manifests: each has a hash of every file, so nothing else need be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nexus_core.bundle.manifest import FileFacts, Manifest


@dataclass(frozen=True, slots=True)
class Difference:
    """`what` is a key of the manifest or a file; a side that does not have it is empty."""

    what: str
    left: str
    right: str


def differences(left: Manifest, right: Manifest) -> list[Difference]:
    """Keys in order, then files in order."""
    ours, theirs = (dict(_leaves("", _plain(manifest))) for manifest in (left, right))
    keys = [key for key in sorted(set(ours) | set(theirs)) if ours.get(key) != theirs.get(key)]
    found = [Difference(key, ours.get(key, ""), theirs.get(key, "")) for key in keys]
    names = [name for name in sorted({*left.files, *right.files}) if left.files.get(name) != right.files.get(name)]
    return found + [Difference(name, _file(left.files.get(name)), _file(right.files.get(name))) for name in names]


def _plain(manifest: Manifest) -> dict[str, Any]:
    return {key: value for key, value in asdict(manifest).items() if key != "files"}


def _leaves(key: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for name, inner in value.items():
            yield from _leaves(f"{key}.{name}" if key else name, inner)
    elif isinstance(value, list | tuple) and any(isinstance(item, Mapping | list | tuple) for item in value):
        for index, inner in enumerate(value):
            yield from _leaves(f"{key}.{index}", inner)
    else:
        yield key, json.dumps(value)


def _file(facts: FileFacts | None) -> str:
    return "" if facts is None else f"{facts.bytes:,} bytes, SHA-256 {facts.sha256[:12]}"
