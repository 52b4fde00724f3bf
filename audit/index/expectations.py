"""Expectations about data frames: the corpus manifest, and each run's result frames.

Great Expectations ignores nulls and passes on empty frames, so columns are also expected to be filled and frames to have
rows. How an expectation is run, and what one that raised counts as, is in `audit.index.validation`.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from audit.index.validation import Expected, Suite, run_suites
from audit.records import Role, Status
from audit.verdict.decisions import CheckResult

MAX_ERROR_SHARE = 0.1  # of the corpus objects; more of them unreadable means the wrong folder or a broken upload
TOLERANCE = 1e-9  # between a stored rate and the quotient of its counts

_SHARE, _USABLE = "unreadable share", "usable pictures"
_HEX64 = "^[0-9a-f]{64}$"
_FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF"]
_MAX_SIDE = 1_000_000  # pixels; what any accepted format can state


def check_manifest(frame: pd.DataFrame, *, max_error_share: float = MAX_ERROR_SHARE) -> list[CheckResult]:
    """Return one result per expectation about a corpus manifest (columns of `audit.corpus.ingest.MANIFEST_SCHEMA`)."""
    return run_suites(frame, _manifest_suites(max_error_share))


def about_readability(name: str) -> bool:
    """Return whether a manifest's check of this name fails because of objects that cannot be read, each by itself."""
    return any(view in name for view in (_SHARE, _USABLE))


def check_results(crr: pd.DataFrame, measurements: pd.DataFrame) -> list[CheckResult]:
    """Return one result per expectation about a run's frames.

    `crr` has the columns of `audit.verdict.results.CrrRow`, one row per cell and instrument. `measurements` has one row per raw
    score, and one with null `label` and `score` for a measurement without scores: `image_id`, `instrument_id`,
    `status` (`audit.records.Status`), `label`, `score` in [0, 1].
    """
    return run_suites(crr, _crr_suites()) + run_suites(measurements, _measurement_suites())


def _not_null(subject: str, *columns: str) -> list[Expected]:
    return [Expected(f"{subject}: {c} is filled", "ExpectColumnValuesToNotBeNull", {"column": c}) for c in columns]


def _between(subject: str, low: float | None, high: float | None, *columns: str) -> list[Expected]:
    words = f"at least {low}" if high is None else f"within {low} and {high}"
    bounds = {"min_value": low, "max_value": high}
    return [
        Expected(f"{subject}: {c} is {words}", "ExpectColumnValuesToBeBetween", {"column": c, **bounds})
        for c in columns
    ]


def _in_set(subject: str, column: str, values: Sequence[str]) -> Expected:
    arguments = {"column": column, "value_set": list(values)}
    return Expected(f"{subject}: {column} is a known value", "ExpectColumnValuesToBeInSet", arguments)


def _null(subject: str, column: str) -> Expected:
    return Expected(f"{subject}: {column} is empty", "ExpectColumnValuesToBeNull", {"column": column})


def _matches(subject: str, column: str, regex: str) -> Expected:
    arguments = {"column": column, "regex": regex}
    return Expected(f"{subject}: {column} is well formed", "ExpectColumnValuesToMatchRegex", arguments)


def _ordered(subject: str, larger: str, smaller: str) -> Expected:
    arguments = {"column_A": larger, "column_B": smaller, "or_equal": True, "ignore_row_if": "neither"}
    return Expected(f"{subject}: {smaller} <= {larger}", "ExpectColumnPairValuesAToBeGreaterThanB", arguments)


def _unique(subject: str, *columns: str) -> Expected:
    arguments = {"column_list": list(columns), "ignore_row_if": "never"}
    return Expected(f"{subject}: {' + '.join(columns)} is unique", "ExpectCompoundColumnsToBeUnique", arguments)


def _rows(subject: str) -> Expected:
    return Expected(f"{subject}: there are rows", "ExpectTableRowCountToBeBetween", {"min_value": 1})


def _manifest_suites(max_error_share: float) -> list[Suite]:
    whole, readable, unreadable = "manifest", "readable objects", "unreadable objects"
    return [
        Suite(
            (
                _rows(whole),
                *_not_null(whole, "uri", "role", "concept", "size_bytes"),
                _unique(whole, "role", "uri"),
                _in_set(whole, "role", [role.value for role in Role]),
                *_between(whole, 0, None, "size_bytes"),
            )
        ),
        Suite(
            (
                *_not_null(readable, "byte_sha256", "pixel_sha256", "width", "height", "format"),
                _matches(readable, "byte_sha256", _HEX64),
                _matches(readable, "pixel_sha256", _HEX64),
                *_between(readable, 1, _MAX_SIDE, "width", "height"),
                _in_set(readable, "format", _FORMATS),
            ),
            lambda frame: frame[frame["error"].isna()],
        ),
        Suite((_null(unreadable, "pixel_sha256"),), lambda frame: frame[frame["error"].notna()]),
        Suite(tuple(_between(whole, 0, max_error_share, _SHARE)), _error_share),
        Suite(tuple(_between("concepts of one role", 1, None, _USABLE)), _usable_by_concept),
        Suite(tuple(_between("equal pictures of one role", 1, 1, "concepts")), _concepts_by_picture),
    ]


def _error_share(frame: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame({_SHARE: [float(frame["error"].notna().mean())]})


def _usable_by_concept(frame: pd.DataFrame) -> pd.DataFrame:
    usable = (frame["error"].isna() & frame["duplicate_of"].isna()).astype("int64")
    groups = usable.groupby([frame["role"], frame["concept"]], dropna=False)
    return groups.sum().rename(_USABLE).reset_index()


def _concepts_by_picture(frame: pd.DataFrame) -> pd.DataFrame:
    groups = frame[frame["error"].isna()].groupby(["role", "pixel_sha256"])["concept"]
    return groups.nunique().rename("concepts").reset_index()


def _crr_suites() -> list[Suite]:
    whole, assessed, empty = "rates", "assessed cells", "cells without assessment"
    counts = ("planned", "assessed", "unassessed", "hits")
    bounds = ("ci_low", "ci_high", "worst_case", "threshold")
    return [
        Suite(
            (
                _rows(whole),
                *_not_null(
                    whole, "cell_id", "instrument_id", "defence", "scenario", "kind", "detector", *counts, *bounds
                ),
                _unique(whole, "cell_id", "detector"),
                _in_set(whole, "role", [role.value for role in Role]),
                *_not_null(whole, "role"),
                *_between(whole, 1, None, "planned"),
                *_between(whole, 0, None, "assessed", "unassessed", "hits"),
                *_between(whole, 0.0, 1.0, *bounds),
                _ordered(whole, "assessed", "hits"),
                _ordered(whole, "planned", "assessed"),
                _ordered(whole, "ci_high", "ci_low"),
            )
        ),
        Suite(
            tuple(_between(whole, -TOLERANCE, TOLERANCE, "planned - assessed - unassessed", "error of worst_case")),
            _count_errors,
        ),
        Suite(
            (
                *_not_null(assessed, "rate"),
                _ordered(assessed, "rate", "ci_low"),
                _ordered(assessed, "ci_high", "rate"),
                *_between(assessed, -TOLERANCE, TOLERANCE, "error of rate"),
            ),
            _with_rate_error,
        ),
        Suite(
            (
                _null(empty, "rate"),
                *_between(empty, 0.0, 0.0, "ci_low"),
                *_between(empty, 1.0, 1.0, "ci_high"),
            ),
            lambda frame: frame[frame["assessed"] == 0],
        ),
    ]


def _count_errors(frame: pd.DataFrame) -> pd.DataFrame:
    worst = (frame["hits"] + frame["unassessed"]) / frame["planned"]
    return pd.DataFrame(
        {
            "planned - assessed - unassessed": frame["planned"] - frame["assessed"] - frame["unassessed"],
            "error of worst_case": (frame["worst_case"] - worst).astype("float64"),
        }
    )


def _with_rate_error(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame[frame["assessed"] > 0]
    rate = frame["rate"].astype("float64")
    return frame.assign(**{"rate": rate, "error of rate": rate - frame["hits"] / frame["assessed"]})


def _measurement_suites() -> list[Suite]:
    whole, scored, failed = "measurements", "scores", "measurements without a reading"
    return [
        Suite(
            (
                _rows(whole),
                *_not_null(whole, "image_id", "instrument_id", "status"),
                _in_set(whole, "status", [status.value for status in Status]),
            )
        ),
        Suite(
            (*_not_null(scored, "label", "score"), *_between(scored, 0.0, 1.0, "score")),
            lambda frame: frame[
                (frame["status"] == Status.OK.value) & (frame["label"].notna() | frame["score"].notna())
            ],
        ),
        Suite((_null(failed, "score"),), lambda frame: frame[frame["status"] != Status.OK.value]),
    ]
