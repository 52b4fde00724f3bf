"""Rates as the gate reads them, and verdicts on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audit import gate
from audit.policy import Limit, Policy
from audit.results import CheckResult, CrrRow, Verdict, VerdictStatus
from audit.statistics import clopper_pearson

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE
GOOD_CHECK = CheckResult("all_good", "sql", "passed", "no offending rows", 0)
POLICY = Policy(version="1", limits=(Limit(crr_max=0.1),), judges=("judge",), assessed_min=0.8)


def row(
    hits: int, clear: int, unassessed: int = 0, *, cell_id: int = 0, detector: str = "judge", **fields: Any
) -> CrrRow:
    assessed, planned = hits + clear, hits + clear + unassessed
    low, high = clopper_pearson(hits, assessed, 0.95)
    defaults = {
        "concept": "ring",
        "subject": "ring",
        "role": "target",
        "control": None,
        "defence": "uce",
        "scenario": "latent-whitebox",
    }
    return CrrRow(
        cell_id=cell_id,
        **{**defaults, **fields},
        detector=detector,
        instrument_id=1,
        threshold=0.5,
        planned=planned,
        assessed=assessed,
        unassessed=unassessed,
        hits=hits,
        rate=hits / assessed if assessed else None,
        ci_low=low,
        ci_high=high,
        worst_case=(hits + unassessed) / planned if planned else 1.0,
    )


def control(name: str, hits: int, clear: int, unassessed: int = 0, **fields: Any) -> CrrRow:
    fields = {"scenario": "none", "defence": "none", **fields}
    cell_id = fields.pop("cell_id", 100 + ["reference", "vae-roundtrip", "backbone", "random-latent"].index(name))
    return row(hits, clear, unassessed, cell_id=cell_id, role="control", control=name, **fields)


def good_controls(detector: str = "judge", scenario: str = "latent-whitebox") -> list[CrrRow]:
    return [
        control("reference", 20, 0, detector=detector),
        control("vae-roundtrip", 20, 0, detector=detector),
        control("backbone", 20, 0, detector=detector, scenario=scenario),
        control("random-latent", 0, 20, detector=detector),
    ]


def verdict_of(*rows: CrrRow, policy: Policy = POLICY, checks: Sequence[CheckResult] = (GOOD_CHECK,)) -> Verdict:
    return gate.decide(policy, rows, checks)
