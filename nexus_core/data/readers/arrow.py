"""Arrow IPC, as `datasets` saves it: the stream format, and the file format."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_core.data.blob import Blob
from nexus_core.data.optional import need
from nexus_core.data.readers.parquet import damaged, refuse_code
from nexus_core.data.records import Chunk, Context

SLICE = 1024


def read_arrow(blob: Blob, context: Context) -> Iterator[Chunk]:
    """One chunk for every 1024 rows of a record batch."""
    pa, ipc = need("pyarrow", "read Arrow"), need("pyarrow.ipc", "read Arrow")
    is_file = blob.head(6) == b"ARROW1"
    with blob.random_access(context.options.max_line_bytes) as stream:
        try:
            reader = ipc.open_file(stream) if is_file else ipc.open_stream(stream)
            refuse_code(blob, reader.schema)
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches)) if is_file else reader
            first = 0
            for batch in batches:
                for at in range(0, batch.num_rows, SLICE):
                    part = batch.slice(at, SLICE)
                    yield Chunk(blob.name, part.to_pylist(), first, part.nbytes)
                    first += part.num_rows
        except (pa.ArrowException, OSError) as error:
            raise damaged(blob, "Arrow", error) from None
