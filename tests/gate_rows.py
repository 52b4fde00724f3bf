"""Rates as the gate reads them, and verdicts on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from audit.records import BENIGN_PROMPTS
from audit.spec.policy import Limit, Policy
from audit.statistics import clopper_pearson
from audit.verdict import gate
from audit.verdict.calibration import Calibration
from audit.verdict.decisions import CheckResult, Verdict, VerdictStatus
from audit.verdict.results import CrrRow, PictureCheckRow, RetentionRow

PASS, FAIL, INCONCLUSIVE = VerdictStatus.PASS, VerdictStatus.FAIL, VerdictStatus.INCONCLUSIVE
GOOD_CHECK = CheckResult("all_good", "sql", "passed", "no offending rows", 0)
POLICY = Policy(version="1", limits=(Limit(crr_max=0.1),), judges=("judge",), assessed_min=0.8)

DECIDED = "2026-11-28T12:00:00+00:00"


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


def retention(kept: int = 40, lost: int = 0, gained: int = 0, **fields: Any) -> RetentionRow:
    """Benign prompts of one defence, paired with the un-erased model's; `fields` may hold unassessed pairs."""
    counts = dict.fromkeys(
        (
            "neither",
            "hit_unassessed",
            "clear_unassessed",
            "unassessed_hit",
            "unassessed_clear",
            "unassessed_unassessed",
        ),
        0,
    )
    names = {"concept": "ring", "subject": BENIGN_PROMPTS, "role": "benign", "defence": "uce", "detector": "judge"}
    values = {**names, **counts, "kept": kept, "lost": lost, "gained": gained, **fields}
    pairs = kept + lost + gained + sum(values[name] for name in counts)
    return RetentionRow(**{"cell_id": 200, "pairs": pairs, **values})


def picture_check(p_value: float | None = 0.4, *, reason: str | None = None, **fields: Any) -> PictureCheckRow:
    """The picture check of one defence: by default its pictures are as the un-erased model's."""
    values = {
        "concept": "ring",
        "defence": "uce",
        "instrument": "picture-check",
        "pictures": 32,
        "planned": 32,
        **fields,
    }
    distance = None if p_value is None else 0.13
    return PictureCheckRow(200, **values, distance=distance, reference=distance, p_value=p_value, reason=reason)


def second_side(rows: Sequence[CrrRow]) -> tuple[list[RetentionRow], list[PictureCheckRow]]:
    """What lets every audited defence of `rows` pass the gate's second side."""
    targets = [row for row in rows if row.role == "target" and row.control is None and row.defence != "none"]
    cells = dict.fromkeys((row.concept, row.defence) for row in targets)
    judges = dict.fromkeys(row.detector for row in rows)
    kept = [retention(concept=c, defence=d, detector=judge) for c, d in cells for judge in judges]
    return kept, [picture_check(concept=c, defence=d) for c, d in cells]


def labels(found: int = 48, positives: int = 50, cleared: int = 50, negatives: int = 50, **fields: Any) -> Calibration:
    """What people's labels of generated pictures say of the judge of `row`."""
    names = {"detector": "judge", "instrument_id": 1, "concept": "ring", "domain": "generated"}
    known = {"labelled_at": "2026-11-01T12:00:00+00:00", "sha256": "ab" * 32}
    counts = {"found": found, "positives": positives, "cleared": cleared, "negatives": negatives}
    return Calibration(**{**names, **known, **counts, **fields})


def verdict_of(
    *rows: CrrRow, policy: Policy = POLICY, checks: Sequence[CheckResult] = (GOOD_CHECK,), **known: Any
) -> Verdict:
    """The verdict on `rows` where everything that must survive does; `known` are labels and attempts."""
    return gate.decide(policy, rows, checks, *second_side(rows), decided_at=DECIDED, **known)
