"""Handles on audio, image and video files: header facts now, samples, pixels or frames when asked."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from nexus_core.data.blob import Blob


@dataclass(frozen=True, slots=True)
class AudioFile:
    """One audio file. Nothing is decoded before `load`."""

    name: str
    sample_rate: int
    channels: int
    frames: int
    blob: Blob = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class ImageFile:
    name: str
    width: int
    height: int
    mode: str
    blob: Blob = field(repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class VideoFile:
    name: str
    width: int
    height: int
    blob: Blob = field(repr=False, compare=False)
    extra: Any = None
