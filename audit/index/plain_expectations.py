"""Settle expectations that plainly hold, with pandas alone.

Great Expectations takes seconds to import and most of a second for each suite, and nearly every expectation about nearly
every run holds. `holds` answers True only where Great Expectations would pass for certain; whatever fails, is of a strange
type or cannot be read is left for it to judge and to word. A test holds the two against each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from audit.files import Document


def holds(frame: pd.DataFrame, kind: str, arguments: Document) -> bool:
    """Return whether the expectation of class `kind` plainly holds for `frame`; False stands for "not known here"."""
    rule = _RULES.get(kind)
    if rule is None:
        return False
    try:
        return bool(rule(frame, arguments))
    except Exception:  # a missing column, values that do not compare: not plain
        return False


def _filled(frame: pd.DataFrame, arguments: Document) -> bool:
    return bool(frame[arguments["column"]].notna().all())


def _empty(frame: pd.DataFrame, arguments: Document) -> bool:
    return bool(frame[arguments["column"]].isna().all())


def _between(frame: pd.DataFrame, arguments: Document) -> bool:
    values = frame[arguments["column"]]
    if set(arguments) != {"column", "min_value", "max_value"} or not _numeric(values):
        return False
    values, low, high = values.dropna(), arguments["min_value"], arguments["max_value"]
    return bool((low is None or (values >= low).all()) and (high is None or (values <= high).all()))


def _in_set(frame: pd.DataFrame, arguments: Document) -> bool:
    values = frame[arguments["column"]].dropna()
    return all(isinstance(value, str) for value in values) and set(values) <= set(arguments["value_set"])


def _matching(frame: pd.DataFrame, arguments: Document) -> bool:
    pattern = re.compile(arguments["regex"])
    values = frame[arguments["column"]].dropna()
    return all(isinstance(value, str) and pattern.fullmatch(value) for value in values)


def _ordered(frame: pd.DataFrame, arguments: Document) -> bool:
    if not arguments["or_equal"] or arguments["ignore_row_if"] != "neither":
        return False
    larger, smaller = frame[arguments["column_A"]], frame[arguments["column_B"]]
    return _numeric(larger) and _numeric(smaller) and bool((larger >= smaller).all())  # a null compares false


def _unique(frame: pd.DataFrame, arguments: Document) -> bool:
    rows = frame[arguments["column_list"]]
    return arguments["ignore_row_if"] == "never" and bool(rows.notna().all(axis=None)) and not rows.duplicated().any()


def _rows(frame: pd.DataFrame, arguments: Document) -> bool:
    return set(arguments) == {"min_value"} and len(frame) >= arguments["min_value"]


def _numeric(values: pd.Series) -> bool:
    return is_numeric_dtype(values) and not is_bool_dtype(values)


_RULES: Mapping[str, Callable[[pd.DataFrame, Document], bool]] = {
    "ExpectColumnValuesToNotBeNull": _filled,
    "ExpectColumnValuesToBeNull": _empty,
    "ExpectColumnValuesToBeBetween": _between,
    "ExpectColumnValuesToBeInSet": _in_set,
    "ExpectColumnValuesToMatchRegex": _matching,
    "ExpectColumnPairValuesAToBeGreaterThanB": _ordered,
    "ExpectCompoundColumnsToBeUnique": _unique,
    "ExpectTableRowCountToBeBetween": _rows,
}
