"""Two runs in a journal that can be compared, with known outcomes."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.corpus.manifest import manifest_sha256
from audit.index.folded_files import on_record
from audit.plan.document import read_outline
from audit.run import consolidate
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.decisions import Verdict, VerdictStatus
from audit.verdict.record import record_verdict
from tests.synthetic import Run, cell, control, instrument

HIT, CLEAR = ([{"label": label, "score": score} for label in ("ring", "disc", "star")] for score in (0.9, 0.05))


@dataclasses.dataclass
class FilteredRun(Run):
    """A run whose filters block the cases of these numbers, under a policy that counts them as `counting` says."""

    blocked: Collection[int] = ()
    counting: str = "clear"
    defences: Sequence[Mapping[str, Any]] = ()

    def plan(self) -> dict[str, Any]:
        """The plan's JSON document."""
        plan = super().plan()
        plan["policy"] |= {"blocked": self.counting}
        plan["spec"] |= {"defences": list(self.defences), "gate": plan["policy"]}
        return plan

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The rows of one unit, to change and write again."""
        if self.units[key]["kind"] != "filter":
            return super().rows(key)
        numbers = {case["image_id"]: case["case_no"] for case in self.cases}
        return [{**row, "blocked": numbers[row["image_id"]] in self.blocked} for row in super().rows(key)]


def run_of(run_id: str, cases: int = 40, system: Mapping[str, Any] | None = None, **fields: Any) -> Run:
    """A run of one cell; `fields` change its judge."""
    return Run(run_id, cells=[cell(0, cases)], instruments=[instrument(**fields)], unit_size=8, system=system)


def scored(journal: Journal, run: Run, hits: Collection[int], unread: Collection[int] = ()) -> None:
    """The run with these cases of its targets hits, those not read, and the others clear; un-erased models always draw."""
    run.write_plan(journal)
    run.write_units(journal, ("invert", "generate"))
    drawn = {row["cell_id"] for row in run.cells if row["control"] == "backbone"}
    cases = {case["image_id"]: (case["cell_id"], case["case_no"]) for case in run.cases}
    for key, unit in run.units.items():
        if unit["kind"] != "detect":
            continue
        rows = []
        for row in run.rows(key):
            in_cell, number = cases[row["image_id"]]
            if number not in unread or in_cell in drawn:
                rows.append({**row, "scores": HIT if in_cell in drawn or number in hits else CLEAR})
        journal.write("detect", key, run.table("detect", rows), {})


def decidable(journal: Journal, run_id: str, hits: Collection[int], cases: int = 80, **fields: Any) -> None:
    """The run as a gate can decide it: a control that works, an empty corpus, and a policy that asks for nothing else."""
    cells = [cell(0, cases), control(1, 20, "backbone", scenario="text")]
    run = Run(run_id, cells=cells, instruments=[instrument(**fields)], unit_size=20)
    scored(journal, run, hits)
    sink = io.BytesIO()
    pq.write_table(MANIFEST_SCHEMA.empty_table(), sink)
    journal.put_run(run_id, "manifest.parquet", sink.getvalue())
    policy = {
        "version": "1", "confidence": 0.95, "limits": [{"crr_max": 0.3}], "judges": ["judge"], "attempts": "count",
        "judge_error": "ignore", "retention_waived": "nothing survives here", "damage_waived": "nothing is drawn here",
    }  # fmt: skip
    plan = run.plan() | {"corpus": {"sha256": manifest_sha256(MANIFEST_SCHEMA.empty_table())}, "policy": policy}
    plan["spec"] = {**plan["spec"], "gate": policy}
    journal.store.put(f"runs/{run_id}/plan.json", json.dumps(plan).encode())


def decided(journal: Journal, database: Path, run_id: str) -> None:
    """The run as a gate that opened has left it, without what the gate computes."""
    consolidate(journal, run_id, database)
    policy = Policy.model_validate(read_outline(journal, run_id).policy)
    verdict = Verdict(VerdictStatus.PASS, ("a reason",), (), ())
    record_verdict(journal, run_id, "gate", "tester", policy, verdict, on_record(journal, run_id).sha256)
