"""WAV, MP3 and FLAC: one record per file, with its header facts and a handle that decodes on demand."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.media import AGAIN, AudioFile
from nexus_core.data.optional import need
from nexus_core.data.readers.image import media_chunk
from nexus_core.data.records import Chunk, Context
from nexus_core.errors import DataError


def read_audio(blob: Blob, context: Context) -> Iterator[Chunk]:
    """The target is the transcript or the emotion where the dataset's layout says one, else empty."""
    sf = need("soundfile", "read audio")
    limit = context.options.max_line_bytes
    with blob.random_access(limit) as stream:
        try:
            info = sf.info(stream)
        except (sf.SoundFileError, RuntimeError) as error:
            raise DataError(f"{blob.name}: not readable as audio: {error}", AGAIN) from None
    audio = AudioFile(blob.name, info.samplerate, info.channels, info.frames, blob, limit)
    facts = {"sample_rate": audio.sample_rate, "channels": audio.channels, "frames": audio.frames}
    yield media_chunk(blob, {**facts, "seconds": audio.seconds, "audio": audio})
