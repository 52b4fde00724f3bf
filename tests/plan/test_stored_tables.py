"""The tables of a plan are read by row groups: what a unit needs and no more, from files of this version and of earlier ones."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.errors import JournalError
from audit.plan import planned_cases, planned_units
from audit.plan.document import Plan, read_plan
from audit.plan.stored_tables import StoredTable, TableWriter
from audit.plan.tables import CASES_SCHEMA, FIRST_CASE_COLUMNS
from audit.storage.journal import Journal
from audit.weights.references import resolve_model
from tests.plan.test_planner import plan_of


@pytest.fixture(scope="module")
def plan(tiny_folder: Path) -> Plan:
    """A plan whose tables have many row groups."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planned_cases, "GROUP_ROWS", 8)
        patch.setattr(planned_units, "GROUP_ROWS", 3)
        return plan_of(resolve_model(str(tiny_folder)))


@pytest.fixture
def journal(plan: Plan, tmp_path: Path) -> Journal:
    journal = Journal(str(tmp_path))
    plan.write(journal)
    return journal


def test_a_unit_s_cases_are_those_of_the_row_groups_of_its_cell(
    plan: Plan, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = read_plan(journal, plan.run_id)
    groups = pq.ParquetFile(pa.BufferReader(journal.get_run(plan.run_id, "cases.parquet"))).metadata.num_row_groups
    decoded: list[int] = []
    read = StoredTable._read_group

    def counted(table: StoredTable, group: int) -> pa.Table:
        decoded.append(group)
        return read(table, group)

    monkeypatch.setattr(StoredTable, "_read_group", counted)
    rows = plan.cases.to_pylist()
    for unit in list(plan.units_of("generate")):
        fresh = read_plan(journal, plan.run_id)
        decoded.clear()
        cases = fresh.cases_of(unit.key)
        assert 0 < len(decoded) < groups
        assert {case.image_id for case in cases} == {row["image_id"] for row in rows if row["unit_key"] == unit.key}
        assert len(cases) == unit.rows
    for unit in stored.units_of("invert"):
        assert len(stored.items_of(unit.key)) == unit.rows
    assert stored.cases_of("0" * 64) == []


def test_a_plan_of_an_earlier_version_is_read(plan: Plan, journal: Journal) -> None:
    """One row group, without statistics and without the columns that came later."""
    old = plan.cases.table().drop_columns(["region", "region_uri", "attributes"])
    for name, table in (("cases.parquet", old), ("units.parquet", plan.units.table())):
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="zstd", write_statistics=False)
        journal.put_run(plan.run_id, name, sink.getvalue())
    stored = read_plan(journal, plan.run_id)
    assert stored.cases.equals(plan.cases) and stored.units.equals(plan.units)
    unit = next(plan.units_of("generate"))
    assert stored.cases_of(unit.key) == plan.cases_of(unit.key)


def test_units_follow_each_other_across_row_groups(plan: Plan) -> None:
    for kind in ("generate", "detect"):
        keys = [row["key"] for row in plan.units.to_pylist() if row["kind"] == kind]
        assert [unit.key for unit in plan.units_of(kind)] == keys
    row = plan.units["key"].to_pylist().index(keys[-1])
    assert plan.unit(row).key == keys[-1]


@pytest.mark.parametrize("cut", [10, 2000])
def test_a_torn_file_is_said_with_the_next_step(plan: Plan, journal: Journal, cut: int) -> None:
    data = journal.get_run(plan.run_id, "cases.parquet")
    journal.put_run(plan.run_id, "cases.parquet", data[:-cut])
    with pytest.raises(JournalError, match="is damaged") as error:
        read_plan(journal, plan.run_id)
    assert error.value.next_step == "start it again: erasure-audit run SPEC"


def test_a_damaged_row_group_is_said_when_it_is_read(plan: Plan, journal: Journal) -> None:
    data = bytearray(journal.get_run(plan.run_id, "cases.parquet"))
    data[4:200] = bytes(196)
    journal.put_run(plan.run_id, "cases.parquet", bytes(data))
    stored = read_plan(journal, plan.run_id)
    with pytest.raises(JournalError, match="is damaged"):
        stored.cases.to_pylist()


def test_an_empty_table_is_written_and_read() -> None:
    table = StoredTable.of_bytes(TableWriter(CASES_SCHEMA, 10).close(), CASES_SCHEMA, FIRST_CASE_COLUMNS)
    rows: list[Any] = table.to_pylist()
    assert rows == [] and table.num_rows == 0 and table.where("cell_id", 0).num_rows == 0
