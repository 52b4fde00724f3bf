"""A verdict from nothing but rows: marts, data checks and gate of this version over an index that holds one run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from audit.index import checks, expectations, queries
from audit.spec.policy import Policy
from audit.verdict.gate import decide
from audit.verdict.results import Basis, CheckResult, RunResult
from audit.verdict.retention import recounted

_CLOSE = 1e-9  # of numbers that another version of a library may compute anew


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

    `index` is a file that `rows.build_index` made, `manifest` the corpus manifest, `basis` what the decision rested on beside
    its numbers. Reads nothing else. `frames` are the results of the expectations about data frames where these have been asked.
    """
    result = queries.read_result(index, run_id, None if planned else policy)
    found = checks.run_checks(index, run_id)
    found += _expectations(index, result, manifest, planned) if frames is None else frames
    verdict = decide(
        policy, result.crr, found, result.retention, result.picture_checks, result.unassessed,
        calibrations=basis.calibrations, attempt=basis.attempt, decided_at=basis.decided_at,
    )  # fmt: skip
    spec = {**result.spec, "gate": policy.model_dump(mode="json")}
    return dataclasses.replace(recounted(result, policy, verdict), spec=spec, verdict=verdict)


def _expectations(index: Path, result: RunResult, manifest: pa.Table, planned: bool) -> list[CheckResult]:
    about_corpus = expectations.check_manifest(manifest.to_pandas()) if manifest.num_rows else []
    rates, readings = queries.result_frames(index, result.run_id)
    return about_corpus + expectations.check_results(rates if planned else queries.rates_frame(result), readings)


def differences(stored: Any, derived: Any, path: str = "") -> Iterator[str]:
    """Yield a sentence for each field in which two JSON values differ. Fields that only `derived` has are a newer version's."""
    if isinstance(stored, Mapping) and isinstance(derived, Mapping):
        for name, value in stored.items():
            place = f"{path}.{name}" if path else str(name)
            if name not in derived:
                yield f"{place} is {_short(value)} in the bundle, and nothing by the rows"
            else:
                yield from differences(value, derived[name], place)
    elif isinstance(stored, list) and isinstance(derived, list):
        if len(stored) != len(derived):
            yield f"{path} has {len(stored)} entries in the bundle, and {len(derived)} by the rows"
        for number, (old, new) in enumerate(zip(stored, derived, strict=False)):
            yield from differences(old, new, f"{path}[{number}]")
    elif not _equal(stored, derived):
        yield f"{path} is {_short(stored)} in the bundle, and {_short(derived)} by the rows"


def _equal(stored: Any, derived: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (stored, derived))
    if numbers:
        return math.isclose(stored, derived, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return type(stored) is type(derived) and bool(stored == derived)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
