"""Read the table that says what single pictures of a corpus show: one row for each picture and attribute, such as its size."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator

import pyarrow as pa

from audit import locations
from audit.corpus import csv_rows, parquet_rows
from audit.corpus.sources import open_source
from audit.errors import CorpusError, SpecError
from audit.files import ForeignError
from audit.identity import canonical_json
from audit.names import folded
from audit.spec.sections import CorpusEntry

COLUMNS = ("image", "attribute", "value")
LONGEST = 100  # characters of an attribute's name or of a value: they are labels
_MEND = "mend the table, whose columns are image (the path below the corpus folder), attribute and value"


def read_attributes(entry: CorpusEntry, pictures: Collection[str]) -> dict[str, str]:
    """Return for each picture that the table of a corpus entry names a JSON object of its attributes, by the picture's URI.

    `pictures` are the URIs of all objects of the entry. Pictures without a row, or without one attribute, are in order.
    Raises `CorpusError` for a table that cannot be read, `SpecError` for a row that names no picture, lacks a field or says
    one attribute of a picture twice.
    """
    assert entry.attributes is not None
    where = locations.absolute(entry.attributes)
    below = locations.absolute(entry.url).rstrip("/")
    known, found = frozenset(pictures), dict[str, dict[str, str]]()
    for place, (image, attribute, value) in _rows(where):
        uri = f"{below}/{image}"
        if uri not in known:
            raise _wrong(f"{place} names {image[:LONGEST]!r}, and there is no such picture in {entry.url}", where)
        said = found.setdefault(uri, {})
        if attribute in said:
            raise _wrong(f"{place} says {attribute!r} of {image[:LONGEST]!r} a second time", where)
        said[attribute] = value
    return {uri: canonical_json(dict(said)) for uri, said in found.items()}


def _rows(where: str) -> Iterator[tuple[str, tuple[str, str, str]]]:
    """Yield each row with the words for its place. Raises `SpecError` for a table without rows, columns or fields."""
    data, empty = _read(where), True
    try:
        rows = _parquet_rows(data, where) if where.lower().endswith((".parquet", ".pq")) else _csv_rows(data, where)
        for place, fields in rows:
            cleaned = [str(field).strip() if field is not None else "" for field in fields]
            for name, field in zip(COLUMNS, cleaned, strict=True):
                if not field or (name != "image" and len(field) > LONGEST):
                    problem = f"more than {LONGEST} characters" if field else "nothing"
                    raise _wrong(f"{place} has {problem} in the column {name!r}", where)
            empty = False
            yield place, (cleaned[0], cleaned[1], cleaned[2])
    except (OSError, csv.Error, pa.ArrowException, UnicodeError, ForeignError) as error:
        raise _wrong(
            f"it cannot be read: {(str(error).splitlines() or [type(error).__name__])[0][:300]}", where
        ) from None
    if empty:
        raise _wrong("it has no rows", where)


def _csv_rows(data: bytes, where: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    names, records = csv_rows.header_and_records(data.decode("utf-8-sig"))
    places = _places(names, where)
    for record in records:
        if record.problem is None and len(record.fields) != len(names):
            raise _wrong(f"line {record.first} has {len(record.fields)} fields and the header {len(names)}", where)
        if record.problem is not None:
            raise _wrong(f"line {record.first} cannot be read: {record.problem}", where)
        yield f"line {record.first}", tuple(record.fields[place] for place in places)


def _parquet_rows(data: bytes, where: str) -> Iterator[tuple[str, tuple[object, ...]]]:
    names = parquet_rows.column_names(data)
    chosen = [names[place] for place in _places(names, where)]
    for number, row in enumerate(parquet_rows.rows(data, chosen), 1):
        yield f"row {number}", tuple(row[name] for name in chosen)


def _places(names: Collection[str], where: str) -> list[int]:
    present = [folded(name) for name in names]
    wrong = [name for name in COLUMNS if present.count(name) != 1]
    if wrong:
        has = "more than one column" if wrong[0] in present else "no column"
        raise _wrong(f"it has {has} {wrong[0]!r}", where)
    return [present.index(name) for name in COLUMNS]


def _read(where: str) -> bytes:
    try:
        return open_source(where).read(where)
    except OSError as error:
        raise CorpusError(
            f"the table of attributes cannot be read: {error.strerror or 'there is no such file'}",
            where=where,
            next_step="correct `attributes` of the corpus entry, or leave it out",
        ) from None


def _wrong(what: str, where: str) -> SpecError:
    return SpecError(f"the table of attributes cannot be used: {what}", where=where, next_step=_MEND)
