"""A published index opened for one run holds that run's rows and no others, and the marts say of it what they said."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from audit.errors import StoreError
from audit.index.one_run import create_marts, open_run
from audit.index.published import key_of_run, open_published
from audit.index.sql_files import relations
from tests.history import History, write

HISTORY = History(cases=2)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("history"), HISTORY)


def test_every_table_holds_the_rows_of_that_run_alone(published: Path) -> None:
    run_id = HISTORY.planned_runs[3].run_id
    key = key_of_run(published, run_id)
    with open_run(published, key) as con:
        for table in relations("schema"):
            columns = [row[0] for row in con.execute(f"describe {table}").fetchall()]
            if "run_key" in columns:
                assert set(con.execute(f"select distinct run_key from {table}").fetchall()) <= {(key,)}, table
        assert con.execute("select run_id from runs").fetchall() == [(run_id,)]
        ((held,),) = con.execute("select count(*) from outcomes").fetchall()
        ((all_runs,),) = con.execute("select count(*) from published.outcomes").fetchall()
    assert 0 < held < all_runs


def test_marts_of_the_run_are_those_of_the_whole_index(published: Path) -> None:
    run_id = HISTORY.planned_runs[3].run_id
    key = key_of_run(published, run_id)
    with contextlib.closing(open_published(published)) as whole, open_run(published, key) as of_run:
        create_marts(of_run)
        for mart in relations("marts"):
            if "run_id" in [row[0] for row in whole.execute(f"describe {mart}").fetchall()]:
                sql = f"select * from {mart} where run_id = ? order by all"
                assert of_run.execute(sql, [run_id]).fetchall() == whole.execute(sql, [run_id]).fetchall(), mart


def test_an_unknown_run_is_refused_with_those_that_are_known(published: Path) -> None:
    with pytest.raises(StoreError, match="does not know the run 'nobody'"):
        key_of_run(published, "nobody")
