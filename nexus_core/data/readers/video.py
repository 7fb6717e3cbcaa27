"""MP4: one record per file, with its header facts and a handle that decodes frames on demand. Needs PyAV."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.media import AGAIN, VideoFile
from nexus_core.data.optional import need
from nexus_core.data.readers.image import media_chunk
from nexus_core.data.records import Chunk, Context
from nexus_core.errors import DataError


def read_video(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The target is the emotion of a RAVDESS recording, else empty."""
    av = need("av", "read video")
    limit = context.options.max_line_bytes
    with blob.random_access(limit) as stream:
        try:
            with av.open(stream) as container:
                if not container.streams.video:
                    raise DataError(f"{blob.name}: no picture track in this video", "take it out of the dataset")
                track = container.streams.video[0]
                seconds = float(container.duration or 0) / av.time_base
                size, fps = (track.codec_context.width, track.codec_context.height), float(track.average_rate or 0)
                video = VideoFile(blob.name, *size, fps, track.frames, seconds, blob, limit)
        except av.FFmpegError as error:
            raise DataError(f"{blob.name}: not readable as video: {error}", AGAIN) from None
    facts = {"width": video.width, "height": video.height, "fps": fps, "n_frames": video.n_frames}
    yield media_chunk(blob, {**facts, "seconds": seconds, "video": video})
