"""Stream records from any dataset that a user has: files, folders, archives and URLs, in constant memory.

Nothing heavy is imported until a file of that kind is read.
"""

from nexus_core.data.loader import StreamingDataLoader
from nexus_core.data.media import AudioFile, ImageFile, VideoFile
from nexus_core.data.records import LoaderOptions, Position, Record

__all__ = ["AudioFile", "ImageFile", "LoaderOptions", "Position", "Record", "StreamingDataLoader", "VideoFile"]
