"""Handles on audio, image and video files: header facts now; samples, pixels or frames when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, BinaryIO

from nexus_core.data.blob import Blob
from nexus_core.data.optional import need
from nexus_core.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MAX_PIXELS = 1 << 27  # 134 megapixels, 400 MB as RGB: beyond it an image is refused as a decompression bomb
AGAIN = "play it with another program; if it is damaged there too, get it again"


@dataclass(frozen=True, slots=True)
class AudioFile:
    """One recording. Nothing is decoded before `load`, and nothing is resampled or mixed, ever."""

    name: str
    sample_rate: int
    channels: int
    frames: int
    blob: Blob = field(repr=False, compare=False)
    limit: int = field(repr=False, compare=False)

    @property
    def seconds(self) -> float:
        """The duration."""
        return self.frames / self.sample_rate

    def load(self) -> np.ndarray[Any, Any]:
        """Samples as float32 in [-1, 1]: shape (frames,) for one channel, else (frames, channels)."""
        sf = need("soundfile", "read audio")
        with self.blob.random_access(self.limit) as stream:
            try:
                samples: np.ndarray[Any, Any] = sf.read(stream, dtype="float32")[0]
            except (sf.SoundFileError, RuntimeError) as error:
                raise DataError(f"{self.name}: cannot be decoded: {error}", AGAIN) from None
        return samples


@dataclass(frozen=True, slots=True)
class ImageFile:
    """One image. No pixel is decoded before `load`."""

    name: str
    width: int
    height: int
    mode: str
    blob: Blob = field(repr=False, compare=False)
    limit: int = field(repr=False, compare=False)

    def load(self) -> Image.Image:
        """The image in its own mode (RGB, RGBA, L, P ...)."""
        with self.blob.random_access(self.limit) as stream:
            image = open_image(self.name, stream)
            try:
                image.load()
            except (OSError, SyntaxError, ValueError) as error:
                raise DataError(f"{self.name}: cannot be decoded: {error}", AGAIN) from None
        return image


@dataclass(frozen=True, slots=True)
class VideoFile:
    """One video. No frame is decoded before `frames`. `n_frames` is 0 where the header does not say."""

    name: str
    width: int
    height: int
    fps: float
    n_frames: int
    seconds: float
    blob: Blob = field(repr=False, compare=False)
    limit: int = field(repr=False, compare=False)

    def frames(self, every: int = 1) -> Iterator[np.ndarray[Any, Any]]:
        """Each `every`-th frame as uint8 (height, width, 3), one at a time."""
        if every < 1:
            raise DataError(f"every={every} is not positive", "use 1 for all frames")
        av = need("av", "read video")
        with self.blob.random_access(self.limit) as stream:
            try:
                with av.open(stream) as container:
                    for n, frame in enumerate(container.decode(video=0)):
                        if n % every == 0:
                            yield frame.to_ndarray(format="rgb24")
            except av.FFmpegError as error:
                raise DataError(f"{self.name}: cannot be decoded: {error}", AGAIN) from None


def open_image(name: str, stream: BinaryIO) -> Image.Image:
    """The image with its header read; only the three formats, whatever the suffix says."""
    pil = need("PIL.Image", "read images")
    try:
        image: Image.Image = pil.open(stream, formats=("PNG", "JPEG", "WEBP"))
    except (OSError, SyntaxError, ValueError, pil.DecompressionBombError) as error:
        raise DataError(f"{name}: not a PNG, JPEG or WebP image: {error}", AGAIN) from None
    if image.width * image.height > MAX_PIXELS:
        raise DataError(
            f"{name}: {image.width} x {image.height} pixels: refused as a decompression bomb",
            "scale the image down before you use it as data",
        )
    return image
