"""The tables of a stored plan: whole ones are read, also those of earlier versions, and damage is said in a few words."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.errors import JournalError
from audit.plan.document import planned_keys, read_outline
from audit.plan.tables import CASES_SCHEMA, UNITS_SCHEMA, read_cases, read_units, with_all_columns
from audit.storage.journal import Journal
from tests.synthetic import Run, cell, instrument

UNIT: dict[str, Any] = {
    "kind": "detect",
    "key": "0f" * 32,
    "depends": [],
    "identity": "{}",
    "rows": 2,
    "cell_ids": [0],
}


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def units(**changed: Any) -> bytes:
    return parquet(pa.Table.from_pylist([UNIT, {**UNIT, **changed}], UNITS_SCHEMA))


def test_what_was_planned_is_read() -> None:
    whole = units(key="1e" * 32)
    assert read_units(whole).to_pylist() == [UNIT, {**UNIT, "key": "1e" * 32}]
    assert read_units(whole, ["key", "kind"]).column_names == ["key", "kind"]


def test_columns_that_came_later_may_be_absent() -> None:
    early = CASES_SCHEMA.names[:9]
    table = pa.Table.from_pylist([{"item": "a"}], pa.schema([CASES_SCHEMA.field(name) for name in early]))
    found = read_cases(parquet(table))
    assert found.column_names == early
    assert with_all_columns(found).schema.equals(CASES_SCHEMA)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (units(kind="paint"), "units of the kind 'paint', which is none"),
        (units(key="../../etc/passwd"), "the key '../../etc/passwd', which is none"),
        (units(key=None), "a unit has no 'key'"),
        (units(identity=None), "a unit has no 'identity'"),
        (parquet(pa.table({"kind": ["detect"]})), "lacks the column 'key'"),
        (
            parquet(pa.table({**{name: [None] for name in UNITS_SCHEMA.names}, "key": [7]})),
            "'kind' holds null, not string",
        ),
    ],
)
def test_damaged_units_are_said(data: bytes, message: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match=message):
        read_units(data)


def test_text_that_is_no_text_is_said() -> None:
    bad = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    table = pa.table({field.name: pa.nulls(1, field.type) for field in CASES_SCHEMA})
    with pytest.raises(pa.ArrowInvalid, match="UTF8"):
        read_cases(parquet(table.set_column(5, "prompt", bad)))


def test_a_run_with_damaged_units_is_said_with_the_next_step(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    Run("run-1", cells=[cell(0, 1)], instruments=[instrument()]).write(journal)
    journal.put_run("run-1", "units.parquet", units(kind="paint"))
    with pytest.raises(JournalError, match=r"plan of run 'run-1' is damaged: .* 'paint'") as error:
        planned_keys(journal, "run-1")
    assert error.value.next_step == "start it again: erasure-audit run SPEC"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"created_at": 7}, "its 'created_at' is '7', which is no str"),
        (
            {
                "cells": [
                    {
                        "cell_id": 0,
                        "concept": "ring",
                        "subject": "ring",
                        "role": "target",
                        "control": None,
                        "defence": None,
                    }
                ]
            },
            "its 'defence' is 'None', which is no str",
        ),
        ({"cells": [7]}, "object has no attribute"),
        ({"cells": 7}, "not iterable"),
    ],
)
def test_a_plan_of_other_values_is_said(change: dict[str, Any], reason: str, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    Run("run-1", cells=[cell(0, 1)], instruments=[instrument()]).write(journal)
    document = json.loads(journal.get_run("run-1", "plan.json"))
    journal.put_run("run-1", "plan.json", json.dumps({**document, **change}).encode())
    with pytest.raises(JournalError, match="plan of run 'run-1' is damaged") as error:
        read_outline(journal, "run-1")
    assert reason in str(error.value)
