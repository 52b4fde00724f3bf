"""Synthetic runs in a journal, written by the journal itself: known outcomes without any model."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from audit import identity
from audit.plan.identities import Unit, from_json
from audit.records import Case
from audit.storage.journal import SCHEMAS, Journal

CASES = pa.schema(
    [
        ("cell_id", pa.int32()),
        ("case_no", pa.int32()),
        ("image_id", pa.int64()),
        ("unit_key", pa.string()),
        ("seed", pa.int64()),
        ("prompt", pa.string()),
        ("item", pa.string()),
        ("item_uri", pa.string()),
        ("invert_key", pa.string()),
        ("attack_key", pa.string()),
        ("attack_item", pa.string()),
        ("subject", pa.string()),
        ("attributes", pa.string()),
    ]
)
UNITS = pa.schema(
    [
        ("kind", pa.string()),
        ("key", pa.string()),
        ("depends", pa.list_(pa.string())),
        ("identity", pa.string()),
        ("rows", pa.int32()),
        ("cell_ids", pa.list_(pa.int32())),
    ]
)
# One identity of each kind as it is stored, to change.
IDENTITIES: dict[str, dict[str, Any]] = {
    "erase": {"backbone": "a" * 64, "method": "uce", "parameters": {}, "concept": {"name": "ring", "phrase": "ring"}},
    "attack": {
        "backbone": "a" * 64, "method": "ring-a-bell", "version": "1", "parameters": {}, "seed": 0, "model": None,
        "concept": {"name": "ring", "phrase": "ring"}, "images": [], "items": ["prompt-0"],
    },
    "invert": {
        "backbone": "a" * 64, "model": None, "method": "fixed-point", "steps": 10, "passes": 5, "tolerance": 1e-4,
        "prompt": "", "perturbation": None, "items": [],
    },
    "generate": {
        "backbone": "a" * 64, "source": "prompt", "model": None, "guards": [], "images": [],
        "sampler": {"steps": 2, "guidance": 1.0, "dtype": "float32"},
    },
}  # fmt: skip
LABELS = ("ring", "disc", "star")


def key_of(text: str) -> str:
    """A unit key."""
    return hashlib.sha256(text.encode()).hexdigest()


def unit(kind: str, rows: int = 1, key: str = "0" * 64, **changes: Any) -> Unit:
    """A unit of a plan, with some fields of its identity changed."""
    checkpoint = {"backbone": "a" * 64} if "checkpoint" in changes else IDENTITIES[kind]
    stored = {**checkpoint, "kind": kind, "code": "c" * 64, **changes}
    return Unit(key, (), from_json(kind, stored), rows)


def case(image_id: int, **changes: Any) -> Case:
    """A planned case that asks for a ring."""
    fields = {"cell_id": 0, "case_no": image_id, "unit_key": "0" * 64, "seed": image_id, "prompt": "ring"}
    return Case(image_id=image_id, **{**fields, **changes})


def cell(cell_id: int, planned: int, **fields: Any) -> dict[str, Any]:
    """A plan's cell: by default the target 'ring' under 'uce' by text."""
    defaults = {
        "concept": "ring",
        "subject": "ring",
        "role": "target",
        "control": None,
        "defence": "uce",
        "scenario": "text",
        "perturbation": None,
        "strength": None,
        "sensitive": False,
        "gate_residual_max": None,
        "gate_psnr_min_db": None,
    }
    return {"cell_id": cell_id, "planned": planned, **defaults, **fields}


def control(cell_id: int, planned: int, name: str, **fields: Any) -> dict[str, Any]:
    """A control cell on the backbone."""
    return cell(
        cell_id, planned, **{"role": "control", "control": name, "defence": "none", "scenario": "none", **fields}
    )


def instrument(detector: str = "judge", instrument_id: int = 11, **fields: Any) -> dict[str, Any]:
    """A whole-image instrument that scores every label."""
    defaults = {
        "kind": "clip-zero-shot",
        "version": "1",
        "package": "none 0",
        "weights_sha256": "0" * 64,
        "preprocessing": "none",
        "labels": list(LABELS),
        "score_floor": 0.0,
        "threshold": 0.5,
        "parameters": "{}",
    }
    return {"instrument_id": instrument_id, "detector": detector, **defaults, **fields}


@dataclasses.dataclass
class Run:
    """One synthetic run. Change its parts before `write`, or its unit files after it."""

    run_id: str = "run-1"
    cells: Sequence[Mapping[str, Any]] = (cell(0, 4),)
    instruments: Sequence[Mapping[str, Any]] = (instrument(),)
    unit_size: int = 4
    confidence: float = 0.95
    created_at: str = "2026-11-22T00:00:00Z"
    system: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        self.rules = [
            {"detector": i["detector"], "subject": "ring", "label": "ring", "threshold": i["threshold"]}
            for i in self.instruments
        ]
        self.cases = [self._case(c, n) for c in self.cells for n in range(c["planned"])]
        self.units: dict[str, dict[str, Any]] = {}
        for case in self.cases:
            if case["invert_key"]:
                self._unit("invert", case["invert_key"], case)
            self._unit("generate", case["unit_key"], case)
            for number in self._filters(case):
                self._unit("filter", self.filter_key(case["unit_key"], number), case)
            for i in self.instruments:
                self._unit("detect", self.detect_key(case["unit_key"], i["instrument_id"]), case)

    def _case(self, c: Mapping[str, Any], number: int) -> dict[str, Any]:
        name = f"{self.run_id}/{c['cell_id']}/{number}"
        latent = c["scenario"].startswith("latent")
        block = f"{self.run_id}/{c['cell_id']}/{number // self.unit_size}"
        return {
            "cell_id": c["cell_id"],
            "case_no": number,
            "image_id": identity.int_key(name),
            "unit_key": key_of(f"generate/{block}"),
            "seed": number,
            "prompt": None if latent else f"a photo of a {c['subject']}",
            "item": key_of(name) if latent else None,
            "item_uri": f"file:///corpus/{number}.png" if latent else None,
            "invert_key": key_of(f"invert/{block}") if latent else None,
        }

    def _unit(self, kind: str, key: str, case: Mapping[str, Any]) -> None:
        unit = self.units.setdefault(key, {"kind": kind, "key": key, "rows": 0, "cell_ids": [case["cell_id"]]})
        unit["rows"] += 1

    def _filters(self, case: Mapping[str, Any]) -> list[int]:
        """The numbers of the filters of a case's cell."""
        cell = next(c for c in self.cells if c["cell_id"] == case["cell_id"])
        return [one["filter_id"] for one in cell.get("filters", ())]

    @staticmethod
    def filter_key(unit_key: str, filter_id: int) -> str:
        """Key of the filter unit of a generate unit and a filter."""
        return key_of(f"filter/{unit_key}/{filter_id}")

    @staticmethod
    def detect_key(unit_key: str, instrument_id: int) -> str:
        """Key of the detect unit of a generate unit and an instrument."""
        return key_of(f"detect/{unit_key}/{instrument_id}")

    def plan(self) -> dict[str, Any]:
        """The plan's JSON document."""
        judges = [i["detector"] for i in self.instruments]
        policy = {"version": "1", "confidence": self.confidence, "limits": [{"crr_max": 0.1}], "judges": judges}
        return {
            "run_id": self.run_id,
            "name": "synthetic",
            "created_at": self.created_at,
            "spec": {"name": "synthetic", "system": self.system, "gate": policy},
            "policy": policy,
            "cells": list(self.cells),
            "instruments": list(self.instruments),
            "rules": self.rules,
        }

    def write_plan(self, journal: Journal) -> None:
        """Store the run files."""
        units = [{**u, "depends": [], "identity": "{}"} for u in self.units.values()]
        for name, table in (
            ("cases.parquet", pa.Table.from_pylist(self.cases, CASES)),
            ("units.parquet", pa.Table.from_pylist(units, UNITS)),
        ):
            sink = io.BytesIO()
            pq.write_table(table, sink)
            journal.put_run(self.run_id, name, sink.getvalue())
        journal.put_run(self.run_id, "provenance.json", b'{"host": "test"}')
        journal.put_run(self.run_id, "plan.json", json.dumps(self.plan()).encode())

    def write_units(self, journal: Journal, kinds: Sequence[str] = ("invert", "generate", "filter", "detect")) -> None:
        """Journal every unit: each case is a hit when its number is odd, and every filter lets it pass."""
        for unit in self.units.values():
            if unit["kind"] in kinds:
                journal.write(unit["kind"], unit["key"], self.table(unit["kind"], self.rows(unit["key"])), {})

    def write(self, journal: Journal) -> None:
        """Store the run files and every unit."""
        self.write_plan(journal)
        self.write_units(journal)

    def rows(self, key: str) -> list[dict[str, Any]]:
        """The rows of one unit, to change and write again."""
        kind = self.units[key]["kind"]
        if kind == "invert":
            return [invert_row(case["item"]) for case in self.cases if case["invert_key"] == key]
        if kind == "generate":
            return [generate_row(case) for case in self.cases if case["unit_key"] == key]
        if kind == "filter":
            return [
                filter_row(case["image_id"], number)
                for case in self.cases
                for number in self._filters(case)
                if self.filter_key(case["unit_key"], number) == key
            ]
        pairs = [(case, i["instrument_id"]) for case in self.cases for i in self.instruments]
        return [
            detect_row(case["image_id"], number, hit=case["case_no"] % 2 == 1)
            for case, number in pairs
            if self.detect_key(case["unit_key"], number) == key
        ]

    @staticmethod
    def table(kind: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
        """Rows in the journal's schema of `kind`."""
        return pa.Table.from_pylist(list(rows), SCHEMAS[kind])

    def key(self, kind: str, index: int = 0) -> str:
        """Key of the `index`-th unit of `kind` in plan order."""
        return [unit["key"] for unit in self.units.values() if unit["kind"] == kind][index]

    def rewrite(self, journal: Journal, kind: str, index: int, changes: Mapping[int, Mapping[str, Any]]) -> None:
        """Write the `index`-th unit of `kind` anew, with changed fields by row number."""
        key = self.key(kind, index)
        rows = [{**row, **changes.get(number, {})} for number, row in enumerate(self.rows(key))]
        discard(journal, kind, key)
        journal.write(kind, key, self.table(kind, rows), {})


def discard(journal: Journal, kind: str, key: str) -> None:
    """Remove the unit's files, as a user who clears a damaged journal would."""
    for path in Path(journal.store.base).rglob(f"{key}.*"):
        if kind in path.parts:
            path.unlink()


def invert_row(item: str) -> dict[str, Any]:
    """A good inversion."""
    numbers = dict.fromkeys((f.name for f in SCHEMAS["invert"] if str(f.type) == "double"), 1.0)
    return {"item": item, "status": "ok", **numbers, "residual_max": 1e-5, "psnr_roundtrip_db": 60.0, "unet_calls": 75}


def generate_row(case: Mapping[str, Any]) -> dict[str, Any]:
    """A good picture."""
    return {
        "image_id": case["image_id"],
        "status": "ok",
        "image": {"bytes": b"png", "path": None},
        "pixel_sha256": key_of(str(case["image_id"])),
        "invert_key": case["invert_key"],
        "item": case["item"],
        "unet_calls": 25,
    }


def filter_row(image_id: int, filter_id: int, *, blocked: bool = False) -> dict[str, Any]:
    """A ruling."""
    return {"image_id": image_id, "status": "ok", "blocked": blocked, "report": "{}", "filter_id": filter_id}


def detect_row(image_id: int, instrument_id: int, *, hit: bool) -> dict[str, Any]:
    """Scores of every label: 'ring' is high for a hit."""
    high = 0.9 if hit else 0.1
    scores = [{"label": label, "score": high if label == "ring" else 0.05} for label in LABELS]
    return {"image_id": image_id, "status": "ok", "scores": scores, "instrument_id": instrument_id}
