"""Read the tables of a stored plan, checking each column's type and every key of a unit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

CASES_SCHEMA = pa.schema(
    [
        ("cell_id", pa.int32()),
        ("case_no", pa.int32()),
        ("image_id", pa.int64()),
        ("unit_key", pa.string()),
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("item", pa.string()),
        ("item_uri", pa.string()),
        ("invert_key", pa.string()),
        ("prompt_key", pa.string()),  # join key of a prompt set's row
        ("guidance", pa.float64()),  # classifier-free guidance of the picture; null where nothing is sampled
        ("problem", pa.string()),  # why the case can only be unassessed, known before anything is computed
        ("attack_key", pa.string()),  # the attack unit whose find goes into `{attack}` of the prompt
        ("attack_item", pa.string()),
        ("subject", pa.string()),  # what is sought in this picture, where cases of one cell differ; null is the cell's
        ("region", pa.string()),  # pixel hash of the mask of the concept's region in the corpus item
        ("region_uri", pa.string()),
        ("attributes", pa.string()),  # a JSON object of what the corpus says of the item
    ]
)
UNITS_SCHEMA = pa.schema(
    [
        ("kind", pa.string()),
        ("key", pa.string()),
        ("depends", pa.list_(pa.string())),
        ("identity", pa.string()),
        ("rows", pa.int32()),
        ("cell_ids", pa.list_(pa.int32())),
    ]
)
KINDS = ("erase", "attack", "invert", "generate", "filter", "detect", "quality")
FIRST_CASE_COLUMNS = CASES_SCHEMA.names[: CASES_SCHEMA.names.index("prompt_key")]  # of the earliest version
UNIT_COLUMNS = tuple(UNITS_SCHEMA.names)
_BATCH_ROWS = 1 << 17


def read_cases(data: bytes) -> pa.Table:
    """Return the planned cases; raises as `case_batches`."""
    return pa.Table.from_batches(case_batches(data), _cases_file(data).schema_arrow)


def read_units(data: bytes, columns: Sequence[str] = UNIT_COLUMNS) -> pa.Table:
    """Return `columns` of the planned units; raises as `unit_batches`."""
    schema = pa.schema([UNITS_SCHEMA.field(name) for name in columns])
    return pa.Table.from_batches(unit_batches(data, columns), schema)


def case_batches(data: bytes) -> Iterator[pa.RecordBatch]:
    """Yield the planned cases. Columns that came with later versions may be absent.

    Raises `ArrowException`, `OSError` or `ValueError` when the bytes are no such table: text that is not UTF-8, a column
    that is missing or of another type.
    """
    for batch in _cases_file(data).iter_batches(_BATCH_ROWS):
        check_rows(batch, CASES_SCHEMA)
        yield batch


def unit_batches(data: bytes, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield `columns` of the planned units, the kind and the key among them.

    Raises as `case_batches`, and where a unit lacks one of them or has a kind or a key that no unit can have.
    """
    file = pq.ParquetFile(pa.BufferReader(data))
    check_columns(file.schema_arrow, UNITS_SCHEMA, columns)
    for batch in file.iter_batches(_BATCH_ROWS, columns=[*columns]):
        batch = batch.select([*columns])
        check_rows(batch, UNITS_SCHEMA)
        yield batch


def with_all_columns(cases: pa.Table) -> pa.Table:
    """Return cases with an empty column for each that they lack, so that plans of earlier versions can be read."""
    for field in CASES_SCHEMA:
        if field.name not in cases.column_names:
            cases = cases.append_column(field, pa.nulls(cases.num_rows, field.type))
    return cases


def _cases_file(data: bytes) -> pq.ParquetFile:
    file = pq.ParquetFile(pa.BufferReader(data))
    check_columns(file.schema_arrow, CASES_SCHEMA, FIRST_CASE_COLUMNS)
    return file


def check_columns(actual: pa.Schema, expected: pa.Schema, needed: Sequence[str]) -> None:
    """Raise `ArrowInvalid` when a file lacks a column or has one of another type."""
    for name in needed:
        if name not in actual.names:
            raise pa.ArrowInvalid(f"it lacks the column {name!r}")
    if len(set(actual.names)) < len(actual.names):
        raise pa.ArrowInvalid("two of its columns have the same name")
    for field in actual:
        if field.name in expected.names and not _is_like(field.type, expected.field(field.name).type):
            raise pa.ArrowInvalid(
                f"its column {field.name!r} holds {field.type}, not {expected.field(field.name).type}"
            )


def _is_like(actual: pa.DataType, expected: pa.DataType) -> bool:
    """Return whether the types are the same but for the name that Parquet gives the elements of a list."""
    if pa.types.is_list(actual) and pa.types.is_list(expected):
        return bool(actual.value_type == expected.value_type)
    return bool(actual == expected)


def check_rows(batch: pa.RecordBatch | pa.Table, schema: pa.Schema) -> None:
    """Raise `ArrowException` for text that is not UTF-8, and for rows of units that can be none."""
    batch.validate(full=True)
    if schema is UNITS_SCHEMA:
        _check_units(batch)


def _check_units(batch: pa.RecordBatch | pa.Table) -> None:
    for name in batch.schema.names:
        if batch.column(name).null_count:
            raise pa.ArrowInvalid(f"a unit has no {name!r}")
    if "kind" in batch.schema.names:
        strange = sorted(set(batch.column("kind").unique().to_pylist()) - {*KINDS})
        if strange:
            raise pa.ArrowInvalid(f"it has units of the kind {strange[0][:80]!r}, which is none")
    if "key" in batch.schema.names:
        keys = batch.column("key")
        wrong = keys.filter(pc.invert(pc.match_substring_regex(keys, "^[0-9a-f]{64}$")))
        if len(wrong):
            raise pa.ArrowInvalid(f"a unit has the key {wrong[0].as_py()[:80]!r}, which is none")
