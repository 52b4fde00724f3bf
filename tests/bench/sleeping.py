"""Units that only sleep and are journalled, for measuring what spreads them. Importing this loads no torch."""

from __future__ import annotations

import dataclasses
import os
import time

import pyarrow as pa
from prefect import task

from audit.plan.identities import Unit
from audit.plan.installation import Installation
from audit.storage.journal import SCHEMAS
from tasks.context import Run
from tasks.retrying import TASK

SECONDS = "BENCH_SLEEP_SECONDS"


@dataclasses.dataclass(frozen=True)
class Slept:
    """The report of a unit that slept; the fields are those of a real one."""

    kind: str
    key: str
    rows: int
    errors: int
    unassessed: int
    unet_calls: int
    seconds: float


def blank_rows(kind: str, rows: int, status: str) -> pa.Table:
    """Rows of a unit of `kind` that hold nothing but their status."""
    schema = SCHEMAS[kind]
    row = {field.name: _blank(field.type) for field in schema if not field.nullable}
    return pa.Table.from_pylist([{**row, "status": status}] * rows, schema=schema)


def _blank(kind: pa.DataType) -> object:
    if pa.types.is_binary(kind):
        return b""
    if pa.types.is_list(kind):
        return []
    return "" if pa.types.is_string(kind) else 0


@task(name="sleep", task_run_name="sleep-{unit.key:.8}", **TASK)
def sleep(run: Run, unit: Unit, expected: Installation | None = None) -> Slept:
    """Sleep for the seconds of a unit and write a file of a unit's size to the journal."""
    seconds = float(os.environ[SECONDS])
    began = time.monotonic()
    time.sleep(seconds)
    table = blank_rows(unit.kind, unit.rows, "ok")
    run.journal.write(unit.kind, unit.key, table, {"identity": {}, "runtime": {"seconds": time.monotonic() - began}})
    return Slept(unit.kind, unit.key, unit.rows, 0, 0, 0, seconds)
