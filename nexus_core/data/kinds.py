"""Which suffix is which kind of data."""

from __future__ import annotations

from pathlib import PurePosixPath

MODALITY = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt"), "text"),
    **dict.fromkeys((".wav", ".mp3", ".flac"), "audio"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "image"),
    ".mp4": "video",
}


def reader_key(name: str) -> str:
    """The key of a file's reader: its suffix in small letters, or `tfevents`."""
    if ".tfevents." in name:
        return "tfevents"
    return PurePosixPath(name).suffix.lower()


def modality_of(name: str) -> str | None:
    """What a file holds; None for tables and archives, which may hold anything. `a.txt.gz` is text."""
    inner = PurePosixPath(name)
    return MODALITY.get(PurePosixPath(inner.stem).suffix.lower() if inner.suffix.lower() == ".gz" else reader_key(name))
