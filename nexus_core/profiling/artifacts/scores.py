"""verify_scores.json: the teacher's scores on the verify split. A score that is missing, or no number, is an error."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nexus_core.profiling.artifacts.formats import read_json, restore, write_json
from nexus_core.profiling.artifacts.layout import ArtifactError
from nexus_core.profiling.model import Reference
from nexus_core.types import Direction


def encode_reference(reference: Reference) -> bytes:
    """The file of a reference; one that does not fit together is refused before a byte of it is written."""
    name = f"the scores of {reference.teacher} on {reference.capability}"
    if problem := _problem(reference):
        raise ArtifactError(f"{name} cannot be kept: {problem}", "measure them again")
    return write_json({**{f.name: getattr(reference, f.name) for f in fields(reference)}, "version": 1})


def decode_reference(name: str, content: bytes) -> Reference:
    """The reference that `encode_reference` was given; `name` is for messages."""
    try:
        reference = _decode(read_json(name, content))
        problem = _problem(reference)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        problem = f"no {error}" if isinstance(error, KeyError) else str(error)
    if problem:
        raise ArtifactError(f"{name} is damaged: {problem}", "score this teacher again: nexus profile --reference-only")
    return reference


def _decode(data: Mapping[str, Any]) -> Reference:
    if data["version"] != 1:
        raise ValueError(f"version {data['version']!r:.20} is unknown")
    known = {field.name for field in fields(Reference)} | {"version"}
    if strangers := sorted(set(data) - known):
        raise ValueError(f'unknown key "{strangers[0][:60]}"')
    if data["data"] is not None and not isinstance(data["data"], str):
        raise ValueError("data is neither text nor null")
    if not isinstance(data["scores"], list):
        raise ValueError("scores are not a list")
    scores = tuple(float(score) if type(score) is int else score for score in data["scores"])
    return restore(Reference, {**data, "direction": Direction(data["direction"]), "scores": scores})


def _problem(reference: Reference) -> str:
    """What does not fit together; empty when all does."""
    if not reference.weights_hash:
        return "no hash of the teacher's weights"
    if reference.n < 1 or len(reference.scores) != reference.n:
        return f"{len(reference.scores)} scores for n={reference.n}"
    if not all(type(score) is float and math.isfinite(score) for score in (reference.score, *reference.scores)):
        return "a score is not a finite number"
    if not re.fullmatch("[0-9a-f]{64}", reference.sample_digest_sha256):
        return "the digest of its samples is none"
    return ""
