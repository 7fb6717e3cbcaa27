"""PNG, JPEG and WebP: one record per file; the caption is the text file with the same stem."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.media import ImageFile, open_image
from nexus_core.data.records import Chunk, Context, Start
from nexus_core.data.text import decode_lines, windows


def read_image(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The target is the caption, or empty."""
    limit = context.options.max_line_bytes
    with blob.random_access(limit) as stream, open_image(blob.name, stream) as opened:
        image = ImageFile(blob.name, opened.width, opened.height, opened.mode, blob, limit)
    caption = _text(blob.caption, limit) if blob.caption else ""
    facts = {"width": image.width, "height": image.height, "mode": image.mode, "image": image}
    yield media_chunk(blob, {"target": caption, **facts})


def _text(caption: Blob, limit: int) -> str:
    found = (decode_lines(caption.name, window) for window in windows(caption, Start(), limit, "a caption"))
    return "\n".join(line.rstrip("\r") for lines in found for line in lines).strip("\n")


def media_chunk(blob: Blob, facts: dict[str, Any]) -> Chunk:
    """The one record of a media file: its name is the input, what the layout knows comes with it."""
    labels = blob.labels() if blob.labels else {}
    row = {"target": "", **labels, **facts, "input": blob.name}
    held = blob.size if blob.held else 1024
    return Chunk(blob.name, [row], 0, held, mapped=True)
