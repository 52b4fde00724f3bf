"""The tables of a plan as Parquet files: written by row groups while they are built, and read by the columns or row groups
that are asked for.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from audit.errors import AuditError, JournalError
from audit.files import Document
from audit.plan.tables import check_columns, check_rows
from audit.storage.errors import translated
from audit.storage.journal import Journal

# What damaged JSON and Parquet end in; an OSError without a number is Arrow's own.
DAMAGE = (ValueError, LookupError, TypeError, AttributeError, OverflowError, OSError, pa.ArrowException)
_MOST_ROWS = 256  # that are Python objects at a time
_KEPT_GROUPS = 2  # decoded row groups that are kept: units of one cell follow each other


class TableWriter:
    """A Parquet file in memory that rows are added to; a row group is encoded as soon as there are enough rows."""

    def __init__(self, schema: pa.Schema, group_rows: int) -> None:
        """Begin an empty file of `schema`."""
        self.schema, self.rows = schema, 0
        self._sink = pa.BufferOutputStream()
        self._file = pq.ParquetWriter(self._sink, schema, compression="zstd")
        self._group_rows, self._waiting, self._waiting_rows = group_rows, list[pa.RecordBatch](), 0

    def add(self, columns: Mapping[str, Sequence[object]]) -> None:
        """Add rows, given as one sequence of values for each column."""
        batch = pa.record_batch([pa.array(columns[f.name], f.type) for f in self.schema], schema=self.schema)
        self.rows += batch.num_rows
        self._waiting.append(batch)
        self._waiting_rows += batch.num_rows
        if self._waiting_rows >= self._group_rows:
            self._encode()

    def close(self) -> bytes:
        """Return the whole file. Nothing can be added after that."""
        if self._waiting or not self.rows:
            self._encode()
        self._file.close()
        return bytes(self._sink.getvalue().to_pybytes())

    def _encode(self) -> None:
        table = pa.Table.from_batches(self._waiting, self.schema)
        self._file.write_table(table, row_group_size=max(self._waiting_rows, 1))
        self._waiting, self._waiting_rows = [], 0


class StoredTable:
    """A table in a Parquet file, of which only the columns and row groups that are asked for are read and decoded.

    It has the methods of an Arrow table that a plan's readers use. Every row is checked when it is read: raises
    `JournalError` for a damaged file, and for storage that does not answer.
    """

    def __init__(
        self,
        open_file: Callable[[], pa.NativeFile],
        schema: pa.Schema,
        needed: Sequence[str],
        run_id: str,
        url: str = "",
    ) -> None:
        """Open the file. `needed` are the columns of `schema` that it must have; others read as empty when they are absent.

        `run_id` and `url`, empty for a file in memory, are for messages.
        """
        self.schema, self._run_id, self._url = schema, run_id, url
        self._open_file, self._lock = open_file, threading.Lock()
        self._columns: dict[str, pa.ChunkedArray] = {}
        self._rows_of = functools.lru_cache(maxsize=_KEPT_GROUPS)(self._read_group)
        with self._explained():
            self._file = pq.ParquetFile(open_file(), pre_buffer=True)
            check_columns(self._file.schema_arrow, schema, needed)
        metadata = self._file.metadata
        self.num_rows: int = metadata.num_rows
        self._starts = [0]
        for group in range(metadata.num_row_groups):
            self._starts.append(self._starts[-1] + metadata.row_group(group).num_rows)

    @classmethod
    def of_bytes(cls, data: bytes, schema: pa.Schema, needed: Sequence[str], run_id: str = "") -> StoredTable:
        """Return the table of a whole file in memory."""
        return cls(functools.partial(pa.BufferReader, data), schema, needed, run_id)

    @classmethod
    def of_run(cls, journal: Journal, run_id: str, name: str, schema: pa.Schema, needed: Sequence[str]) -> StoredTable:
        """Return the table in a file of a run. Raises `JournalError` when it is absent, as `Journal.get_run` does."""
        path = f"runs/{run_id}/{name}"

        def open_file() -> pa.NativeFile:
            try:
                return journal.store.open(path, partial=True)
            except FileNotFoundError:
                return pa.BufferReader(journal.get_run(run_id, name))

        return cls(open_file, schema, needed, run_id, journal.store.url(path))

    def data(self) -> bytes:
        """Return the bytes of the whole file."""
        with self._explained(), self._open_file() as stream:
            return bytes(stream.read())

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        """Return one column, which is kept."""
        if name not in self._columns:
            self._columns[name] = self.select([name]).column(name)
        return self._columns[name]

    def select(self, names: Sequence[str]) -> pa.Table:
        """Return some columns of all rows."""
        return pa.Table.from_batches(self.batches(names), pa.schema([self.schema.field(name) for name in names]))

    def table(self) -> pa.Table:
        """Return all columns of all rows."""
        return self.select(self.schema.names)

    def filter(self, mask: pa.ChunkedArray) -> pa.Table:
        """Return the rows that a mask keeps."""
        return self.table().filter(mask)

    def to_pylist(self) -> list[dict[str, object]]:
        """Return the rows as dictionaries."""
        rows: list[dict[str, object]] = self.table().to_pylist()
        return rows

    def equals(self, other: StoredTable) -> bool:
        """Return whether both have the same rows in the same order."""
        return bool(self.table().equals(other.table()))

    def batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield some columns, one record batch for each row group."""
        for group in range(len(self._starts) - 1):
            yield from self._group(group, names).to_batches()

    def rows(self, start: int, count: int = 1) -> Iterator[Document]:
        """Yield `count` rows from number `start` as dictionaries; their row groups are read whole."""
        for group in self._groups(start, start + count):
            first = self._starts[group]
            begin, end = max(start - first, 0), min(start + count, self._starts[group + 1]) - first
            yield from self._rows_of(group).slice(begin, end - begin).to_pylist()

    def numbered(self, numbers: Sequence[int]) -> Iterator[Document]:
        """Yield the rows of ascending numbers; row groups without any of them are not read."""
        first = 0
        for last in range(1, len(numbers) + 1):
            full = last - first == _MOST_ROWS
            if last == len(numbers) or full or numbers[last] != numbers[last - 1] + 1:
                yield from self.rows(numbers[first], last - first)
                first = last

    def where(self, column: str, value: int) -> pa.Table:
        """Return the rows in which `column` has `value`; row groups whose statistics rule that out are not read."""
        index = self._file.schema_arrow.get_field_index(column)
        parts = [self.schema.empty_table()]
        for group in range(len(self._starts) - 1):
            statistics = self._file.metadata.row_group(group).column(index).statistics
            known = statistics is not None and statistics.has_min_max
            if not known or statistics.min <= value <= statistics.max:
                table = self._rows_of(group)
                parts.append(table.filter(pc.equal(table[column], value)))
        return pa.concat_tables(parts)

    def _groups(self, start: int, end: int) -> Iterator[int]:
        for group in range(len(self._starts) - 1):
            if self._starts[group] < end and start < self._starts[group + 1]:
                yield group

    def _read_group(self, group: int) -> pa.Table:
        return self._group(group, self.schema.names)

    def _group(self, group: int, names: Sequence[str]) -> pa.Table:
        stored = [name for name in names if name in self._file.schema_arrow.names]
        with self._explained(), self._lock:
            table = self._file.read_row_group(group, columns=stored)
            check_rows(table, self.schema)
        for name in names:
            if name not in table.column_names:
                table = table.append_column(
                    self.schema.field(name), pa.nulls(table.num_rows, self.schema.field(name).type)
                )
        return table.select(list(names)).cast(pa.schema([self.schema.field(name) for name in names]))

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        with translated(self._url) if self._url else contextlib.nullcontext():
            try:
                yield
            except AuditError:
                raise
            except DAMAGE as error:
                if isinstance(error, OSError) and not (type(error) is OSError and error.errno is None):
                    raise  # of the disk or the network
                raise damaged(self._run_id, error) from error


def damaged(run_id: str, error: Exception) -> JournalError:
    """Return the error for a stored plan that cannot be read."""
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    return JournalError(
        f"the plan of run {run_id!r} is damaged: {reason}", next_step="start it again: erasure-audit run SPEC"
    )
