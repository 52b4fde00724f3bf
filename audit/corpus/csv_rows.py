"""Read CSV so that every physical line is either read or reported. A quote left open never swallows the rows below it.

The `csv` module reads everything after an opening quote as one field, over however many lines. Here a record of several
lines is accepted only when they cannot be rows of their own; otherwise its first line is reported, and reading resumes
at the second one.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import itertools
from collections.abc import Collection, Iterator, Sequence

from audit.names import folded

_OPEN = (
    "it opens a quote that is not closed before the next row begins; remove the quote, or enclose the whole field in "
    'quotes and double the quotes inside it ("")'
)
_PROFILED = 200  # one-line rows that say what the columns hold


@dataclasses.dataclass(frozen=True)
class Record:
    """The fields of one record, or none and the reason. `first` and `last` are its physical lines, from 1."""

    fields: tuple[str, ...]
    problem: str | None
    first: int
    last: int


def header_and_records(text: str, numeric: Collection[str] = ()) -> tuple[list[str], list[Record]]:
    """Return the header's fields and every record below it, blank lines left out; columns called `numeric` hold numbers.

    Raises `csv.Error` for a broken header.
    """
    lines = list(io.StringIO(text, newline=""))
    names, used = _strict(lines, 0, len(lines)) if lines else ([], 0)
    if names is None:
        alone, whole = _lenient(lines[0])
        if not whole:
            raise csv.Error("its header opens a quote and does not close it")
        names, used = alone, 1
    return names, list(_records(lines, used, _Rows(lines, used, [folded(name) in numeric for name in names])))


class _Rows:
    """Tells lines that are rows of their own: they have the header's fields, and in each what other rows have there."""

    def __init__(self, lines: Sequence[str], start: int, numeric: Sequence[bool]) -> None:
        self._numeric = numeric
        self._width = width = len(numeric)
        self._numbers = [0] * width
        self._indented = [0] * width
        self._seen = 0
        for line in lines[start:]:
            fields, _ = _strict([line], 0, 1)
            if fields is None or len(fields) != width:
                continue
            self._seen += 1
            for i, field in enumerate(fields):
                self._numbers[i] += _is_number(field)
                self._indented[i] += field[:1] == " "
            if self._seen == _PROFILED:
                break

    def whole(self, line: str) -> bool:
        """Return whether `line` can be a row. One column of text tells nothing: there every line could be."""
        try:
            fields, complete = _lenient(line)
        except csv.Error:
            return False
        if self._width < 2 or len(fields) != self._width or not complete:
            return False
        mostly = 0.9 * self._seen
        for field, known, numbers, indented in zip(fields, self._numeric, self._numbers, self._indented, strict=True):
            if (known or (self._seen and numbers >= mostly)) and not _is_number(field):
                return False
            if self._seen and not indented and field[:1] == " ":
                return False
        return True


def _records(lines: Sequence[str], start: int, rows: _Rows) -> Iterator[Record]:
    at = start
    while at < len(lines):
        fields, used = _strict(lines, at, len(lines))
        if used > 1 and (fields is None or _swallowed(lines[at : at + used], rows)):
            yield Record((), _OPEN, at + 1, at + 1)
            used = 1
        elif fields is None:
            yield _alone(lines[at], at + 1)
        elif fields:
            yield Record(tuple(fields), None, at + 1, at + used)
        at += used


def _alone(line: str, number: int) -> Record:
    """Return the record of one line that is not strictly CSV: quotes inside a quoted field are taken as they stand."""
    try:
        fields, complete = _lenient(line)
    except csv.Error as error:
        return Record((), f"it is not CSV: {error}", number, number)
    return Record(tuple(fields), None, number, number) if complete else Record((), _OPEN, number, number)


def _swallowed(lines: Sequence[str], rows: _Rows) -> bool:
    """Return whether a field that runs over line ends has taken in rows of their own.

    The first line then is one too, but for its stray quote, and so is one below it. Where even the first line has another
    fault, most of those between the first and the last are: the last line of a true field may look like a row.
    """
    below = [rows.whole(line) for line in lines[1:]]
    opened = lines[0].rfind('"')
    without_quote = lines[0][:opened] + lines[0][opened + 1 :]
    if any(below) and rows.whole(without_quote):
        return True
    between = below[:-1]
    return sum(between) * 2 > len(between)


def _strict(lines: Sequence[str], start: int, stop: int) -> tuple[list[str] | None, int]:
    """Return the record that begins at line `start`, None when it is not strictly CSV, and the lines that it took."""
    reader = csv.reader(itertools.islice(lines, start, stop), strict=True)
    try:
        return next(reader), reader.line_num
    except csv.Error:
        return None, reader.line_num


def _lenient(line: str) -> tuple[list[str], bool]:
    """Return the fields of one line on its own, and whether it ends outside of quotes."""
    reader = csv.reader([line, "\n"])
    return next(reader, []), reader.line_num == 1


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True
