"""Read the rows of a Parquet file that somebody else wrote, within bounds of rows and of decoded size.

A file of a few kilobytes can decode to gigabytes: a dictionary keeps a long text once and every row repeats it. Text is
therefore read as a dictionary, and each different value becomes one Python string that its rows share.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from audit.files import ForeignError

MOST_ROWS = 5_000_000
MOST_BYTES = 1_000_000_000  # of the columns that are read, decoded
_BATCH_ROWS = 10_000
_BROKEN = "\udcff"  # stands for bytes that are not UTF-8, as in a CSV file


def column_names(data: bytes) -> list[str]:
    """Return the names of the columns. Raises `pyarrow.ArrowException`, or OSError without a number, for a damaged file."""
    with pq.ParquetFile(io.BytesIO(data)) as file:
        return list(file.schema_arrow.names)


def rows(data: bytes, columns: Collection[str]) -> Iterator[dict[str, object]]:
    """Yield each row's values of `columns`. Raises as `column_names`, and `ForeignError` beyond `MOST_ROWS` or `MOST_BYTES`."""
    wanted = sorted(columns)
    texts = [field.name for field in _schema(data) if field.name in columns and _is_text(field.type)]
    with pq.ParquetFile(io.BytesIO(data), read_dictionary=texts) as file:
        _check_size(file.metadata, columns)
        taken = 0
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=wanted, use_threads=False):
            values = []
            for column in batch.columns:
                cells, size = _cells(column)
                values.append(cells)
                taken += size
            if taken > MOST_BYTES:
                raise ForeignError(f"its columns decode to more than {MOST_BYTES} bytes")
            for row in zip(*values, strict=True):
                yield dict(zip(batch.schema.names, row, strict=True))


def _schema(data: bytes) -> pa.Schema:
    with pq.ParquetFile(io.BytesIO(data)) as file:
        return file.schema_arrow


def _check_size(metadata: pq.FileMetaData, columns: Collection[str]) -> None:
    if metadata.num_rows > MOST_ROWS:
        raise ForeignError(f"it has {metadata.num_rows} rows, and at most {MOST_ROWS} are read")
    size = 0
    for i in range(metadata.num_row_groups):
        group = metadata.row_group(i)
        for j in range(group.num_columns):
            chunk = group.column(j)
            if chunk.path_in_schema.partition(".")[0] in columns:
                size += max(chunk.total_uncompressed_size, 0)
    if size > MOST_BYTES:
        raise ForeignError(f"its columns decode to {size} bytes, and at most {MOST_BYTES} are read")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind))


def _cells(column: pa.Array) -> tuple[list[object], int]:
    """Return the values of one column of a batch, and the bytes that they take; rows of equal text share it."""
    if not pa.types.is_dictionary(column.type):
        return [_scalar(value) for value in column], column.nbytes
    indices = column.indices.to_pylist()
    words = {i: _scalar(column.dictionary[i]) for i in {*indices} - {None}}
    size = sum(len(word) for word in words.values() if isinstance(word, str | bytes))
    return [None if i is None else words[i] for i in indices], size + column.indices.nbytes


def _scalar(value: pa.Scalar) -> object:
    try:
        return value.as_py()
    except UnicodeDecodeError:
        return _BROKEN
