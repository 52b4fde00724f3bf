"""Derive a verdict from nothing but rows: the marts, data checks and gate of this version over an index."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from audit.index import checks, expectations, queries
from audit.spec.policy import Policy
from audit.verdict.damaged_hits import recounted
from audit.verdict.decisions import Basis, CheckResult
from audit.verdict.gate import decide
from audit.verdict.results import RunResult


def derive(
    index: Path,
    run_id: str,
    manifest: pa.Table,
    policy: Policy,
    basis: Basis,
    *,
    planned: bool,
    frames: Sequence[CheckResult] | None = None,
) -> RunResult:
    """Return the run's result with its verdict under `policy`; `planned` says that it is the policy of the plan.

    `index` is a published index or one with the same tables, `manifest` the corpus manifest, `basis` what the decision rests on
    beside its numbers. Reads nothing else. `frames` are the results of the expectations about data frames where these have
    been asked.
    """
    result = queries.read_result(index, run_id, None if planned else policy)
    found = checks.run_checks(index, run_id)
    found += _expectations(index, result, manifest, planned) if frames is None else frames
    verdict = decide(
        policy, result.crr, found, result.retention, result.picture_checks, result.unassessed,
        filtered=result.blocking, calibrations=basis.calibrations, attempt=basis.attempt, decided_at=basis.decided_at,
    )  # fmt: skip
    spec = {**result.spec, "gate": policy.model_dump(mode="json")}
    return dataclasses.replace(recounted(result, policy, verdict), spec=spec, verdict=verdict)


def _expectations(index: Path, result: RunResult, manifest: pa.Table, planned: bool) -> list[CheckResult]:
    about_corpus = expectations.check_manifest(manifest.to_pandas()) if manifest.num_rows else []
    rates, readings = queries.result_frames(index, result.run_id)
    return about_corpus + expectations.check_results(rates if planned else queries.rates_frame(result), readings)
