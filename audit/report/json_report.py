"""Write the report as JSON, everything of a run's result under a stable schema, and read it back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from enum import Enum

from pydantic import JsonValue

from audit.errors import StoreError
from audit.files import Document
from audit.verdict.calibration import Calibration
from audit.verdict.case_pictures import CasePicture, CaseReading, PicturedCase, PictureRole
from audit.verdict.comparison import PairedRow
from audit.verdict.decisions import (
    Basis,
    BlockingDecision,
    CheckResult,
    ControlFinding,
    DamageDecision,
    Decision,
    RetentionDecision,
    Verdict,
    VerdictStatus,
)
from audit.verdict.failure_modes import FailureMode, FoundPicture
from audit.verdict.nearest import NearestPair, NearestRow, UnerasedPicture
from audit.verdict.regression import Comparison
from audit.verdict.results import (
    BlockingRow,
    CountingRow,
    CrrRow,
    Disagreement,
    FilterRow,
    GuardRow,
    JudgePairRow,
    LatentRow,
    PictureCheckRow,
    QualityRow,
    RetentionRow,
    RoundTripRow,
    RunResult,
    Sample,
    UnassessedRow,
)

SCHEMA = "erasure-audit.report"
SCHEMA_VERSION = 1  # raised when a field is renamed, removed or changes its meaning; new fields do not raise it

COMPARISON_SCHEMA, COMPARISON_VERSION = "erasure-audit.comparison", 1


def render(result: RunResult, comparison: Comparison | None = None) -> str:
    """Return ASCII JSON with sorted keys. NaN becomes null; infinities become the strings "Infinity" and "-Infinity".

    `comparison` is the run's with an earlier one, under `regression`; `parse` leaves it out.
    """
    fields = {field.name: plain(getattr(result, field.name)) for field in dataclasses.fields(result)}
    document = {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, **fields}
    if comparison is not None:
        document["regression"] = comparison_values(comparison)
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def render_comparison(comparison: Comparison) -> str:
    """Return a comparison of two runs as ASCII JSON with sorted keys."""
    document = {"schema": COMPARISON_SCHEMA, "schema_version": COMPARISON_VERSION, **comparison_values(comparison)}
    return json.dumps(document, indent=1, sort_keys=True, allow_nan=False) + "\n"


def comparison_values(comparison: Comparison) -> dict[str, JsonValue]:
    """Return a comparison as JSON values, with the exit code that its status means."""
    fields = {field.name: plain(getattr(comparison, field.name)) for field in dataclasses.fields(comparison)}
    return {**fields, "exit_code": comparison.status.exit_code}


def parse(text: str) -> RunResult:
    """Return the `RunResult` that `render` wrote. Raises `StoreError` for anything else."""
    try:
        document = json.loads(text)
        if document["schema"] != SCHEMA or document["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema {document['schema']!r} version {document['schema_version']!r}")
        return _result(document)
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"this is not a report of schema {SCHEMA} version {SCHEMA_VERSION}: {error}",
            next_step="write it again from the index: erasure-audit report RUN",
        ) from error


def plain(value: object) -> JsonValue:
    """Return a record as values of JSON: NaN becomes null, infinities the strings "Infinity" and "-Infinity"."""
    if isinstance(value, Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return str(value)


def _result(document: Document) -> RunResult:
    return RunResult(
        run_id=document["run_id"],
        name=document["name"],
        created_at=document["created_at"],
        spec=document["spec"],
        provenance=document["provenance"],
        instruments=tuple(document["instruments"]),
        crr=tuple(CrrRow(**row) for row in document["crr"]),
        unassessed=tuple(UnassessedRow(**row) for row in document["unassessed"]),
        round_trips=tuple(RoundTripRow(**_floats(row)) for row in document["round_trips"]),
        samples=tuple(Sample(**row) for row in document["samples"]),
        verdict=read_verdict(document["verdict"]),
        erasures=tuple(document.get("erasures", ())),  # absent from reports of before the field was there
        guards=tuple(GuardRow(**row) for row in document.get("guards", ())),
        attacks=tuple(document.get("attacks", ())),
        latents=tuple(LatentRow(**_floats(row)) for row in document.get("latents", ())),
        counting=tuple(CountingRow(**row) for row in document.get("counting", ())),
        quality=tuple(QualityRow(**_median(row)) for row in document.get("quality", ())),
        quality_instruments=tuple(document.get("quality_instruments", ())),
        retention=tuple(RetentionRow(**row) for row in document.get("retention", ())),
        picture_checks=tuple(PictureCheckRow(**row) for row in document.get("picture_checks", ())),
        defence_pairs=tuple(PairedRow(**row) for row in document.get("defence_pairs", ())),
        pictured=tuple(_pictured(row) for row in document.get("pictured", ())),
        judge_pairs=tuple(JudgePairRow(**row) for row in document.get("judge_pairs", ())),
        failure_modes=tuple(_failure_mode(row) for row in document.get("failure_modes", ())),
        nearest=tuple(_nearest(row) for row in document.get("nearest", ())),
        disagreements=tuple(Disagreement(**row) for row in document.get("disagreements", ())),
        blocking=tuple(BlockingRow(**row) for row in document.get("blocking", ())),
        filters=tuple(FilterRow(**row) for row in document.get("filters", ())),
    )


def _failure_mode(row: Document) -> FailureMode:
    return FailureMode(**{**row, "pictures": tuple(FoundPicture(**picture) for picture in row["pictures"])})


def _nearest(row: Document) -> NearestRow:
    pairs = (NearestPair(**{**pair, "nearest": UnerasedPicture(**pair["nearest"])}) for pair in row["pairs"])
    return NearestRow(**{**row, "pairs": tuple(pairs)})


def _pictured(row: Document) -> PicturedCase:
    pictures = (
        CasePicture(
            **{
                **picture,
                "role": PictureRole(picture["role"]),
                "readings": tuple(CaseReading(**reading) for reading in picture["readings"]),
            }
        )
        for picture in row["pictures"]
    )
    return PicturedCase(**{**row, "pictures": tuple(pictures)})


def read_verdict(verdict: Document) -> Verdict:
    """Return a verdict from the fields that `plain` gives of one. Raises as a dataclass does for fields that it lacks."""
    return Verdict(
        VerdictStatus(verdict["status"]),
        tuple(verdict["reasons"]),
        tuple(Decision(**_decided(row)) for row in verdict["decisions"]),
        tuple(CheckResult(**check) for check in verdict["checks"]),
        tuple(RetentionDecision(**_decided(row)) for row in verdict.get("retention", ())),
        tuple(DamageDecision(**_decided(row)) for row in verdict.get("damage", ())),
        tuple(verdict.get("waivers", ())),
        tuple(ControlFinding(**row) for row in verdict.get("controls", ())),
        verdict.get("attempt_sentence", ""),
        _basis(verdict.get("basis", {})),
        tuple(BlockingDecision(**_decided(row)) for row in verdict.get("blocking", ())),
    )


def _basis(stored: Document) -> Basis:
    calibrations = tuple(Calibration(**row) for row in stored.get("calibrations", ()))
    return Basis(stored.get("attempt", 1), calibrations, stored.get("decided_at"))


def _decided(row: Document) -> Document:
    """Return a decision with its status as an enum.

    The upper bound of retention is infinite where nothing bounds the backbone's rate.
    """
    decided = {**row, "status": VerdictStatus(row["status"])}
    return {**decided, "high": math.inf} if row.get("high") == "Infinity" else decided


def _median(row: Document) -> Document:
    """Return a quality row with its median as a float, infinite where most pictures equal their baseline."""
    return {**row, "median": math.inf if row["median"] == "Infinity" else row["median"]}


def _floats(row: Document) -> Document:
    """Return a row with its numbers as floats: these can be NaN (no data) or infinite (identical pictures)."""
    special = {None: math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return {name: special.get(value, value) for name, value in row.items()}
