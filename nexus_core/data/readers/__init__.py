"""One reader per format. A reader turns a `Blob` into chunks of rows; `READERS` says which one has which suffix."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.readers.arrow import read_arrow
from nexus_core.data.readers.delimited import read_csv, read_tsv
from nexus_core.data.readers.gz import read_gz
from nexus_core.data.readers.json_file import read_json
from nexus_core.data.readers.jsonl import read_jsonl
from nexus_core.data.readers.parquet import read_parquet
from nexus_core.data.readers.txt import read_txt
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
}

MODALITY = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".txt"), "text"),
    **dict.fromkeys((".wav", ".mp3", ".flac"), "audio"),
    **dict.fromkeys((".png", ".jpg", ".jpeg", ".webp"), "image"),
    ".mp4": "video",
}
