"""Read prompt files, CSV or Parquet, under the column names of I2P, of MMA-Diffusion and of the files derived from ESD's.

A bad row costs no other: it keeps its place, with the reason and without the values that could not be read. Only a file
that cannot be read at all, or has no prompt column, is refused.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import hashlib
import logging
import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audit.corpus import csv_rows, parquet_rows
from audit.errors import AbsentFile, SpecError
from audit.files import ForeignError, read_bounded
from audit.names import folded

log = logging.getLogger(__name__)
LIMIT_BYTES = 1_000_000_000  # of a file; I2P has two million
CELL_CHARACTERS = 100_000  # of a prompt or a key; text encoders read a few hundred
# Names under which published files keep a field, the first one found wins. Names are compared as `folded` has them.
ALIASES: Mapping[str, tuple[str, ...]] = {
    "prompt": ("prompt", "adv_prompt", "adversarial_prompt", "sensitive prompt"),
    "seed": ("evaluation_seed", "sd_seed", "seed"),
    "guidance": ("evaluation_guidance", "sd_guidance_scale", "guidance"),
    "key": ("case_number", "", "unnamed: 0", "__index_level_0__"),
    "concept": ("concept", "class"),
    "width": ("sd_image_width", "width"),
    "height": ("sd_image_height", "height"),
}
NUMERIC = {name for field in ("seed", "guidance", "width", "height") for name in ALIASES[field]}
ROW_NUMBER = "row"  # the join key of a file without a column for it: the data row, from 0


@dataclasses.dataclass(frozen=True)
class RawRow:
    """One row of the file: values by the file's own column names, or the reason why there are none."""

    values: Mapping[str, object]
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class Table:
    """A prompt file: the SHA-256 of its bytes, its column names, the column of each field, and all its rows."""

    where: str
    sha256: str
    names: tuple[str, ...]
    columns: Mapping[str, str]  # field of ALIASES -> column name
    rows: tuple[RawRow, ...]

    def value(self, row: RawRow, field: str) -> object:
        """Return the value of a row under a field; None when the file has no such column or the row could not be read."""
        column = self.columns.get(field)
        return row.values.get(column) if column is not None else None


def read_table(path: Path, chosen: Mapping[str, str | None], filtered: Collection[str] = ()) -> Table:
    """Return the table at `path`, Parquet by its suffix and CSV otherwise. `chosen` names columns, None ignores one.

    Of a Parquet file only the columns of fields and those to be `filtered` by are read. Raises `AbsentFile` for a file that
    cannot be opened, `SpecError` for one that is no file, is too large, cannot be read, has no rows, or whose prompt column
    is absent or in doubt.
    """
    where = str(path)
    name_one = "name a CSV or Parquet file"
    try:
        data = read_bounded(path, LIMIT_BYTES)
    except ForeignError as error:
        raise _refused(f"the prompt file cannot be read: {error}", where, name_one) from None
    except OSError as error:
        what = f"the prompt file cannot be read: {error.strerror or error}"
        raise AbsentFile(what, where=where, next_step=name_one) from None
    try:
        if path.suffix.lower() in (".parquet", ".pq"):
            names = parquet_rows.column_names(data)
            columns = _columns(names, chosen, where)
            needed = {*map(folded, columns.values()), *map(folded, filtered)}
            wanted = [name for name in names if folded(name) in needed]
            rows = [RawRow(row) for row in parquet_rows.rows(data, wanted)]
        else:
            names, rows = _csv(data, where)
            columns = _columns(names, chosen, where)
    except SpecError:
        raise
    except MemoryError:
        raise _refused("the prompt file needs more memory than there is", where, "name a smaller one") from None
    except (OSError, csv.Error, pa.ArrowException, UnicodeError, ForeignError) as error:
        message = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise _refused(f"the prompt file cannot be read: {message}", where, name_one) from None
    if not rows:
        raise _refused("the prompt file has no rows", where, "add prompts")
    return Table(where, hashlib.sha256(data).hexdigest(), tuple(names), columns, tuple(rows))


def _refused(what: str, where: str, next_step: str) -> SpecError:
    return SpecError(what, where=where, next_step=next_step)


def _columns(names: Sequence[str], chosen: Mapping[str, str | None], where: str) -> dict[str, str]:
    plain: dict[str, list[str]] = {}
    for name in names:
        plain.setdefault(folded(name), []).append(name)
    listed = ", ".join(repr(name) for name in names)[:300] or "none"
    columns: dict[str, str] = {}
    for field, aliases in ALIASES.items():
        if field in chosen:
            wanted = chosen[field]
            if wanted is None:
                continue
            if folded(wanted) not in plain:
                raise _refused(f"the prompt file has no column {wanted!r}; it has {listed}", where, "name one of them")
            columns[field] = plain[folded(wanted)][0]
        else:
            present = [alias for alias in aliases if alias in plain]
            if field == "prompt" and len(present) > 1:
                raise _refused(
                    f"the prompt file has several columns of prompts: {', '.join(map(repr, present))}",
                    where,
                    f"say which, in the spec's prompts: columns: {{prompt: {present[0]}}}",
                )
            if present:
                columns[field] = plain[present[0]][0]
        if field in columns and len(plain[folded(columns[field])]) > 1:
            raise _refused(f"the prompt file has the column {columns[field]!r} twice", where, "rename one of them")
    if "prompt" not in columns:
        raise _refused(
            f"the prompt file has no prompt column; it has {listed}",
            where,
            "name it in the spec's prompts: columns: {prompt: NAME}",
        )
    return columns


def _csv(data: bytes, where: str) -> tuple[list[str], list[RawRow]]:
    names, records = csv_rows.header_and_records(_decoded(data), NUMERIC)
    if any(_broken(name) for name in names):
        raise UnicodeError("its header is not UTF-8 text")
    rows = []
    for record in records:
        if record.problem is not None:
            rows.append(RawRow({}, f"line {record.first} of the file: {record.problem}"))
        elif len(record.fields) != len(names):
            rows.append(RawRow({}, f"it has {len(record.fields)} fields and the header {len(names)}"))
        else:
            rows.append(RawRow(dict(zip(names, record.fields, strict=True))))
    long = [record for record in records if record.last > record.first]
    if long and len(names) == 1:  # in one column of text any line could be a row, so nothing tells a quote left open
        log.warning(
            "%s: %d rows go over several lines, the first one from line %d to %d; if these should be rows of their own, a "
            "quote is left open there", where, len(long), long[0].first, long[0].last,
        )  # fmt: skip
    return names, rows


def _decoded(data: bytes) -> str:
    """Return the text of a CSV file. Bytes that are not UTF-8 become lone surrogates, by which their row is refused later."""
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    return data.decode("utf-8-sig", errors="surrogateescape")


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def text_of(value: object) -> str:
    """Return a prompt or a key as text. Raises ValueError, with the reason, for what is empty, not text or not readable."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise ValueError("is empty")
    if isinstance(value, int | float) and not isinstance(value, bool):
        raise ValueError("is a number, not text")
    if not isinstance(value, str):
        raise ValueError(f"is not text but {type(value).__name__}")
    if len(value) > CELL_CHARACTERS:
        raise ValueError(f"has {len(value)} characters, and at most {CELL_CHARACTERS} are read")
    if _broken(value):
        raise ValueError("is not UTF-8 text")
    if not value.strip() or value.strip().casefold() == "nan":
        raise ValueError("is empty")
    if any(ord(c) < 32 and c not in "\t\n\r" for c in value):
        raise ValueError("has control characters")
    return value


def key_of(value: object) -> str:
    """Return a join key as text: 12, 12.0 and "12" are one key. Raises ValueError for an empty one."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return str(int(value)) if value == int(value) else str(value)
    return text_of(value).strip()


def whole(value: object, low: int, high: int) -> int:
    """Return an integer in low..high, also where a table wrote it as 12.0. Raises ValueError with the reason."""
    number: object
    try:
        number = int(value.strip()) if isinstance(value, str) else value
    except ValueError:
        number = _float(value)
    if isinstance(number, float):
        if not number.is_integer() or abs(number) > 2**53:  # beyond, a float no longer says which integer was meant
            raise ValueError(f"{_shown(value)} is not a whole number")
        number = int(number)
    if isinstance(number, bool) or not isinstance(number, int):
        raise ValueError("is empty" if number is None else f"{_shown(value)} is not a whole number")
    if not low <= number <= high:
        raise ValueError(f"{_shown(value)} is not in {low}..{high}")
    return number


def real(value: object, low: float, high: float) -> float:
    """Return a finite number in low..high. Raises ValueError with the reason."""
    number = _float(value)
    if not low <= number <= high:
        raise ValueError(f"{_shown(value)} is not in {low:g}..{high:g}")
    return number


def _float(value: Any) -> float:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError("is empty")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{_shown(value)} is not a number") from None
    if not math.isfinite(number):
        raise ValueError(f"{_shown(value)} is not a finite number")
    return number


def _shown(value: object) -> str:
    return repr(value if not isinstance(value, str) else value[:40].encode("ascii", "backslashreplace").decode())
