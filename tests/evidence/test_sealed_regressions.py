"""A regression on record in a bundle: sealed beside the verdict, and never left out."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pyarrow as pa

from audit import run as steps
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.evidence.lines import Answer
from audit.evidence.seal import seal
from audit.index.derivation import derive
from audit.spec.policy import Policy
from audit.verdict.decisions import Basis
from audit.verdict.record import regression_fields
from audit.verdict.regression import Pairing, RunFacts, decide
from tests.evidence.bundles import NOW, POLICY, SEALED, resealed, sealed
from tests.evidence.test_verify import lines, only_wrong
from tests.verdict.test_comparison import row


def test_a_regression_is_sealed_beside_the_verdict_and_cannot_be_left_out(tmp_path: Path) -> None:
    bundle = sealed(tmp_path, frames=[])
    old, new = (RunFacts(run_id, "ring", "2026-11-22", "ring", None, None, None) for run_id in ("run-0", "run-1"))
    comparison = decide(Pairing(old, new, ("judge",), (("uce", row(second_only=12, clear_both=12)),)), 0.95)
    empty = pa.Table.from_batches([], schema=MANIFEST_SCHEMA)
    result = derive(bundle.index, "run-1", empty, Policy.model_validate(POLICY), Basis(), planned=True, frames=[])
    fields = regression_fields(comparison, "1" * 64, None)
    steps.record_decision(bundle.journal, result, tmp_path / "index.duckdb", "gate", regression=fields)
    folder = seal(bundle.journal, "run-1", bundle.index, bundle.private, tmp_path / "second", SEALED).folder
    stated = {"status": "FAIL", "compared_with": "run-0", "baseline": None}
    verdict = json.loads((folder / "data/verdict.json").read_text())
    assert verdict["regression"] == stated
    bundle = dataclasses.replace(bundle, folder=folder)
    told = lines(bundle, 7, tmp_path, NOW)
    assert not [line for line in told if line.answer is Answer.WRONG]
    beside = "the regression against run-0, FAIL on record beside the verdict: that run's rows are not in the bundle"
    assert beside in [line.detail for line in told if line.answer is Answer.UNCHECKED]
    del verdict["regression"]
    lying = resealed(bundle, {"verdict.json": json.dumps(verdict).encode()})
    wrong = only_wrong(lines(lying, 7, tmp_path, NOW))
    assert wrong.detail == "the verdict says of a regression what the signed decision does not"
