"""One reader per format. A reader turns a `Blob` into chunks of rows; `READERS` says which one has which suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.readers.arrow import read_arrow
from nexus_core.data.readers.audio import read_audio
from nexus_core.data.readers.delimited import read_csv, read_tsv
from nexus_core.data.readers.gz import read_gz
from nexus_core.data.readers.image import read_image
from nexus_core.data.readers.json_file import read_json
from nexus_core.data.readers.jsonl import read_jsonl
from nexus_core.data.readers.parquet import read_parquet
from nexus_core.data.readers.tar_archive import read_tar
from nexus_core.data.readers.tensorboard import read_tensorboard
from nexus_core.data.readers.txt import read_txt
from nexus_core.data.readers.video import read_video
from nexus_core.data.readers.zip_archive import read_zip
from nexus_core.data.records import Chunk, Context

Reader = Callable[[Blob, Context], Iterator[Chunk]]

READERS: dict[str, Reader] = {
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".json": read_json,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
    ".arrow": read_arrow,
    ".txt": read_txt,
    ".gz": read_gz,
    ".zip": read_zip,
    ".tar": read_tar,
    ".tgz": read_tar,
    ".wav": read_audio,
    ".mp3": read_audio,
    ".flac": read_audio,
    ".png": read_image,
    ".jpg": read_image,
    ".jpeg": read_image,
    ".webp": read_image,
    ".mp4": read_video,
    "tfevents": read_tensorboard,
}
