"""Parquet, row group by row group."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nexus_core.data.blob import Blob
from nexus_core.data.optional import need
from nexus_core.data.records import MIB, Chunk, Context
from nexus_core.errors import DataError

BATCH_BYTES = 4 * MIB


def read_parquet(blob: Blob, context: Context) -> Iterator[Chunk]:
    """Batches of at most 1024 rows, fewer where rows are large."""
    pa, pq = need("pyarrow", "read Parquet"), need("pyarrow.parquet", "read Parquet")
    with blob.random_access(context.options.max_line_bytes) as stream:
        try:
            file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=MIB)
            refuse_code(blob, file.schema_arrow)
            first = 0
            for group in range(file.num_row_groups):
                facts = file.metadata.row_group(group)
                per_row = max(1, facts.total_byte_size // max(1, facts.num_rows))
                batch_rows = max(1, min(1024, BATCH_BYTES // per_row))
                for batch in file.iter_batches(batch_size=batch_rows, row_groups=[group], use_threads=False):
                    yield Chunk(blob.name, batch.to_pylist(), first, batch.nbytes)
                    first += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise damaged(blob, "Parquet", error) from None


def refuse_code(blob: Blob, schema: Any) -> None:
    """`DataError` for a column of Arrow's pickled extension type, which older readers unpickle on sight."""
    if any(map(_pickled, schema)):
        raise DataError(
            f"{blob.name}: refused, a column has the type arrow.py_extension_type, a pickle that runs code when read",
            "write the file again with plain column types",
        )


def _pickled(field: Any) -> bool:
    name = (field.metadata or {}).get(b"ARROW:extension:name", b"")
    name = name.decode("utf-8", "replace") or str(getattr(field.type, "extension_name", ""))
    children = [field.type.field(i) for i in range(field.type.num_fields)]
    return name == "arrow.py_extension_type" or any(map(_pickled, children))


def damaged(blob: Blob, what: str, error: Exception) -> DataError:
    """The error for a file that pyarrow cannot read."""
    reason = str(error).splitlines()[0]
    return DataError(f"{blob.name}: not a complete {what} file: {reason}", "download or write the file again")
