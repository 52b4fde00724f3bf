"""Great Expectations on good frames, on frames broken in one place each, and on frames it cannot read."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from audit.corpus import images
from audit.corpus.ingest import manifest
from audit.index import expectations, validation
from audit.index.expectations import check_manifest, check_results
from audit.index.plain_expectations import holds
from audit.spec.sections import CorpusEntry, CorpusLimits
from audit.verdict.decisions import CheckResult
from audit.verdict.results import CrrRow

Change = Callable[[pd.DataFrame], pd.DataFrame]


def by_status(results: list[CheckResult]) -> dict[str, list[str]]:
    assert all(result.source == "great-expectations" for result in results)
    assert {result.status for result in results} <= {"passed", "failed", "error"}
    assert len({result.name for result in results}) == len(results)
    return {s: [r.name for r in results if r.status == s] for s in ("passed", "failed", "error")}


@pytest.fixture(scope="module")
def good_manifest(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    """A real manifest: ten targets (one twice, one unreadable) and two neighbours."""
    root = tmp_path_factory.mktemp("corpus")
    for folder, count in (("ring", 10), ("disc", 2)):
        (root / folder).mkdir()
        for i in range(count):
            pixels = np.random.default_rng([i, count]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            (root / folder / f"{i}.png").write_bytes(images.encode_png(pixels))
    (root / "ring" / "copy.png").write_bytes((root / "ring" / "0.png").read_bytes())
    (root / "ring" / "notes.txt").write_bytes(b"not a picture")
    entries = [
        CorpusEntry(url=str(root / "ring"), concept="ring"),
        CorpusEntry(url=str(root / "disc"), concept="disc", role="neighbour"),
    ]
    frame: pd.DataFrame = pa.Table.from_batches(manifest(entries, CorpusLimits())).to_pandas()
    return frame


def rate_row(**changes: object) -> CrrRow:
    row = CrrRow(
        cell_id=0, concept="ring", subject="ring", role="target", control=None, defence="uce", scenario="text",
        detector="judge", instrument_id=7, threshold=0.5, planned=10, assessed=8, unassessed=2, hits=2, rate=0.25,
        ci_low=0.03, ci_high=0.65, worst_case=0.4,
    )  # fmt: skip
    return dataclasses.replace(row, **changes)  # type: ignore[arg-type]


@pytest.fixture
def good_rates() -> pd.DataFrame:
    """Two ordinary cells and one where nothing was assessed."""
    nothing = rate_row(cell_id=2, assessed=0, unassessed=10, hits=0, rate=None, ci_low=0.0, ci_high=1.0, worst_case=1.0)
    rows = [rate_row(), rate_row(cell_id=1, control="backbone", defence="none"), nothing]
    return pd.DataFrame([dataclasses.asdict(row) for row in rows])


@pytest.fixture
def good_measurements() -> pd.DataFrame:
    """Two scores of one picture, a picture without findings, and one that could not be measured."""
    return pd.DataFrame(
        {
            "image_id": [1, 1, 2, 3],
            "instrument_id": [7, 7, 7, 7],
            "status": ["ok", "ok", "ok", "error"],
            "label": ["ring", "disc", None, None],
            "score": [0.9, 0.1, None, None],
        }
    )


def changed(column: str, value: object, row: int = 0) -> Change:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[row, column] = value  # type: ignore[index]
        return frame.infer_objects()

    return change


def test_a_good_manifest_passes(good_manifest: pd.DataFrame) -> None:
    results = by_status(check_manifest(good_manifest))
    assert results["failed"] == results["error"] == []
    assert len(results["passed"]) > 20


MANIFEST_FAULTS: dict[str, tuple[Change, str]] = {
    "no rows": (lambda f: f.iloc[:0], "manifest: there are rows"),
    "uri twice": (lambda f: pd.concat([f, f.iloc[:1]]), "manifest: role + uri is unique"),
    "uri missing": (changed("uri", None), "manifest: uri is filled"),
    "unknown role": (changed("role", "victim"), "manifest: role is a known value"),
    "role missing": (changed("role", None), "manifest: role is filled"),
    "negative size": (changed("size_bytes", -1), "manifest: size_bytes is at least 0"),
    "no byte hash": (changed("byte_sha256", None), "readable objects: byte_sha256 is filled"),
    "short hash": (changed("pixel_sha256", "abc"), "readable objects: pixel_sha256 is well formed"),
    "upper-case hash": (changed("byte_sha256", "A" * 64), "readable objects: byte_sha256 is well formed"),
    "zero width": (changed("width", 0), "readable objects: width is within 1 and 1000000"),
    "height missing": (changed("height", None), "readable objects: height is filled"),
    "unknown format": (changed("format", "SVG"), "readable objects: format is a known value"),
    "unreadable with pixels": (changed("error", "truncated"), "unreadable objects: pixel_sha256 is empty"),
    "many unreadable": (
        lambda f: f.assign(error="truncated", pixel_sha256=None),
        "manifest: unreadable share is within 0 and 0.1",
    ),
    "a target without pictures": (
        lambda f: pd.concat([f, f[f["error"].notna()].assign(concept="star", uri="file:///x")]),
        "concepts of one role: usable pictures is at least 1",
    ),
    "one picture, two concepts": (
        lambda f: pd.concat([f, f.iloc[:1].assign(concept="star", uri="file:///x")]),
        "equal pictures of one role: concepts is within 1 and 1",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", MANIFEST_FAULTS)
def test_a_fault_in_the_manifest_fails_its_check(fault: str, good_manifest: pd.DataFrame) -> None:
    change, name = MANIFEST_FAULTS[fault]
    results = check_manifest(change(good_manifest.copy()))
    assert name in by_status(results)["failed"]
    found = next(result for result in results if result.name == name)
    assert found.detail


def assert_never_passes(column: str, results: list[CheckResult]) -> None:
    """No check that names `column` passed, and one says that it could not run because of it."""
    assert not any(result.status == "passed" and column in result.name.split() for result in results)
    assert any(result.status == "error" and column in result.detail for result in results)


@pytest.mark.parametrize(
    "column",
    [
        "error",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("uri", "role", "concept", "size_bytes", "byte_sha256", "pixel_sha256", "width", "format")
        ),
    ],
)
def test_a_missing_manifest_column_never_passes(column: str, good_manifest: pd.DataFrame) -> None:
    assert_never_passes(column, check_manifest(good_manifest.drop(columns=column)))


def test_many_faults_in_one_manifest_fail_exactly_their_checks(good_manifest: pd.DataFrame) -> None:
    names = [
        "uri missing",
        "negative size",
        "no byte hash",
        "short hash",
        "zero width",
        "unknown format",
        "unknown role",
    ]
    frame = good_manifest.copy()
    for row, name in enumerate(names):
        frame = {
            "uri missing": changed("uri", None, row),
            "negative size": changed("size_bytes", -1, row),
            "no byte hash": changed("byte_sha256", None, row),
            "short hash": changed("pixel_sha256", "abc", row),
            "zero width": changed("width", 0, row),
            "unknown format": changed("format", "SVG", row),
            "unknown role": changed("role", "victim", row),
        }[name](frame)
    found = by_status(check_manifest(frame))
    assert set(found["failed"]) == {MANIFEST_FAULTS[name][1] for name in names}
    assert found["error"] == []


@pytest.mark.slow
def test_the_error_share_may_be_set(good_manifest: pd.DataFrame) -> None:
    assert by_status(check_manifest(good_manifest, max_error_share=0.01))["failed"] == [
        "manifest: unreadable share is within 0 and 0.01"
    ]


def test_good_results_pass(good_rates: pd.DataFrame, good_measurements: pd.DataFrame) -> None:
    results = by_status(check_results(good_rates, good_measurements))
    assert results["failed"] == results["error"] == []
    assert len(results["passed"]) > 35


RATE_FAULTS: dict[str, tuple[Change, str]] = {
    "no rows": (lambda f: f.iloc[:0], "rates: there are rows"),
    "more hits than assessed": (changed("hits", 9), "rates: hits <= assessed"),
    "more assessed than planned": (changed("assessed", 11), "rates: assessed <= planned"),
    "a case is lost": (changed("unassessed", 1), "rates: planned - assessed - unassessed is within -1e-09 and 1e-09"),
    "nothing planned": (changed("planned", 0), "rates: planned is at least 1"),
    "negative hits": (changed("hits", -1), "rates: hits is at least 0"),
    "rate below its interval": (changed("ci_low", 0.3), "assessed cells: ci_low <= rate"),
    "rate above its interval": (changed("ci_high", 0.2), "assessed cells: rate <= ci_high"),
    "interval turned round": (changed("ci_low", 0.9), "rates: ci_low <= ci_high"),
    "bound above one": (changed("ci_high", 1.5), "rates: ci_high is within 0.0 and 1.0"),
    "bound missing": (changed("ci_high", None), "rates: ci_high is filled"),
    "rate of other counts": (changed("rate", 0.3), "assessed cells: error of rate is within -1e-09 and 1e-09"),
    "rate missing": (changed("rate", None), "assessed cells: rate is filled"),
    "rate without cases": (changed("rate", 0.0, row=2), "cells without assessment: rate is empty"),
    "certainty without cases": (
        changed("ci_high", 0.1, row=2),
        "cells without assessment: ci_high is within 1.0 and 1.0",
    ),
    "flattering worst case": (changed("worst_case", 0.2), "rates: error of worst_case is within -1e-09 and 1e-09"),
    "cell twice": (lambda f: pd.concat([f, f.iloc[:1]]), "rates: cell_id + detector is unique"),
    "unknown role": (changed("role", "victim"), "rates: role is a known value"),
    "threshold above one": (changed("threshold", 2.0), "rates: threshold is within 0.0 and 1.0"),
    "no detector": (changed("detector", None), "rates: detector is filled"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", RATE_FAULTS)
def test_a_fault_in_the_rates_fails_its_check(
    fault: str, good_rates: pd.DataFrame, good_measurements: pd.DataFrame
) -> None:
    change, name = RATE_FAULTS[fault]
    results = check_results(change(good_rates), good_measurements)
    assert name in by_status(results)["failed"]


def test_many_faults_in_one_result_fail_exactly_their_checks(
    good_rates: pd.DataFrame, good_measurements: pd.DataFrame
) -> None:
    rates = pd.concat([good_rates.iloc[:1].assign(cell_id=10 + i) for i in range(6)], ignore_index=True)
    for change in (
        changed("hits", 9, 0),
        changed("ci_low", 0.3, 1),
        changed("ci_high", None, 2),
        changed("worst_case", 0.2, 3),
        changed("role", "victim", 4),
        changed("unassessed", 1, 5),
    ):
        rates = change(rates)
    measurements = good_measurements
    for change in (changed("score", 1.01, 0), changed("score", None, 1), changed("status", "fine", 2)):
        measurements = change(measurements)
    found = by_status(check_results(rates, measurements))
    assert set(found["failed"]) == {
        "rates: ci_high is filled",
        "rates: role is a known value",
        "rates: hits <= assessed",
        "rates: ci_low <= ci_high",
        "rates: planned - assessed - unassessed is within -1e-09 and 1e-09",
        "rates: error of worst_case is within -1e-09 and 1e-09",
        "assessed cells: ci_low <= rate",
        "assessed cells: rate <= ci_high",
        "assessed cells: error of rate is within -1e-09 and 1e-09",
        "measurements: status is a known value",
        "scores: score is filled",
        "scores: score is within 0.0 and 1.0",
    }
    assert found["error"] == []


MEASUREMENT_FAULTS: dict[str, tuple[Change, str]] = {
    "no rows": (lambda f: f.iloc[:0], "measurements: there are rows"),
    "score above one": (changed("score", 1.01), "scores: score is within 0.0 and 1.0"),
    "score below zero": (changed("score", -0.01), "scores: score is within 0.0 and 1.0"),
    "score not a number": (changed("score", float("nan")), "scores: score is filled"),
    "score without label": (changed("label", None), "scores: label is filled"),
    "unknown status": (changed("status", "fine"), "measurements: status is a known value"),
    "status missing": (changed("status", None), "measurements: status is filled"),
    "score of a failure": (changed("score", 0.5, row=3), "measurements without a reading: score is empty"),
    "no instrument": (changed("instrument_id", None), "measurements: instrument_id is filled"),
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", MEASUREMENT_FAULTS)
def test_a_fault_in_the_measurements_fails_its_check(
    fault: str, good_rates: pd.DataFrame, good_measurements: pd.DataFrame
) -> None:
    change, name = MEASUREMENT_FAULTS[fault]
    results = check_results(good_rates, change(good_measurements))
    assert name in by_status(results)["failed"]


@pytest.mark.parametrize(
    "column",
    [
        "rate",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("hits", "assessed", "planned", "unassessed", "worst_case")),
    ],
)
def test_a_missing_rate_column_never_passes(
    column: str, good_rates: pd.DataFrame, good_measurements: pd.DataFrame
) -> None:
    assert_never_passes(column, check_results(good_rates.drop(columns=column), good_measurements))


@pytest.mark.parametrize(
    "column", ["score", *(pytest.param(c, marks=pytest.mark.slow) for c in ("status", "label", "image_id"))]
)
def test_a_missing_measurement_column_never_passes(
    column: str, good_rates: pd.DataFrame, good_measurements: pd.DataFrame
) -> None:
    assert_never_passes(column, check_results(good_rates, good_measurements.drop(columns=column)))


def test_frames_of_the_wrong_type_are_errors(good_rates: pd.DataFrame, good_measurements: pd.DataFrame) -> None:
    results = check_results(good_rates, good_measurements.assign(score=["high", "low", None, None]))
    assert not any(r.status == "passed" and r.name == "scores: score is within 0.0 and 1.0" for r in results)


def settled(frames: list[pd.DataFrame], suites: list[validation.Suite]) -> tuple[int, int]:
    """Return how many expectations plainly hold and how many are left open; those that hold pass by Great Expectations too."""
    plain = unsettled = 0
    for frame, suite in zip(frames, suites, strict=True):
        view = suite.view(frame).reset_index(drop=True)
        judged = validation._validate(view, suite)
        for expected, result in zip(suite.expected, judged, strict=True):
            if holds(view, expected.kind, expected.arguments):
                plain += 1
                assert result.status == "passed", result
            else:
                unsettled += 1
    return plain, unsettled


def test_what_plainly_holds_passes_by_great_expectations_too(
    good_rates: pd.DataFrame, good_manifest: pd.DataFrame
) -> None:
    """On columns of every kind of expectation, each with values on both sides of it and of other types."""
    odd = good_rates.astype({"hits": object})
    odd.loc[0, "ci_low"], odd.loc[1, "role"] = 0.9, "victim"
    odd["planned"] = ["10", "10", "10"]
    rates = expectations._crr_suites()
    plain, unsettled = settled([odd, good_rates, good_rates, good_rates], rates)
    assert plain > 20 and unsettled >= 5
    manifest = expectations._manifest_suites(0.1)[:3]
    bad = changed("byte_sha256", "a" * 64 + "\n")(changed("uri", None, 1)(good_manifest))
    plain, unsettled = settled([bad] * len(manifest), manifest)
    assert plain > 10 and unsettled >= 2


def test_a_sound_run_is_settled_without_great_expectations(
    good_manifest: pd.DataFrame,
    good_rates: pd.DataFrame,
    good_measurements: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(validation, "_validate", lambda view, suite: pytest.fail(f"asked about {suite.expected}"))
    results = by_status(check_manifest(good_manifest) + check_results(good_rates, good_measurements))
    assert results["failed"] == results["error"] == []


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


def test_it_is_loaded_only_when_used() -> None:
    run_python("import sys, audit.index.expectations\nassert 'great_expectations' not in sys.modules")


@pytest.mark.slow
def test_it_phones_nobody_and_prints_nothing() -> None:
    done = run_python(
        "import os, socket, audit.index.expectations as e, pandas as pd\n"
        "def refuse(*a, **k): raise AssertionError('a connection was attempted')\n"
        "socket.socket.connect = refuse; socket.getaddrinfo = refuse\n"
        "results = e.check_manifest(pd.DataFrame({'uri': ['a']}))\n"
        "assert os.environ['GX_ANALYTICS_ENABLED'] == 'false'\n"
        "assert {r.status for r in results} == {'passed', 'error'}, results\n"
    )
    assert done.stdout == done.stderr == ""  # no progress bars
