"""BI tools lag behind: the published index opens in the oldest DuckDB that the tool promises, and every mart answers."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import duckdb
import pytest

from audit.index.sql_files import relations
from audit.index.store import STORAGE_VERSION, Store
from audit.storage.journal import Journal
from tests.synthetic import Run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# Rows as text: the two versions need not agree about Python's types.
ASK = """
import json, sys, duckdb
with duckdb.connect(sys.argv[1], read_only=True) as con:
    marts = [row[0] for row in con.execute(
        "select view_name from duckdb_views() where starts_with(view_name, 'mart_') order by all").fetchall()]
    rows = {mart: sorted(map(repr, con.execute(f"select * from {mart}").fetchall())) for mart in marts}
print(json.dumps({"version": duckdb.__version__, "rows": rows}))
"""


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a fresh environment with nothing but DuckDB at the storage version's own release."""
    folder = tmp_path_factory.mktemp("older")
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    release = STORAGE_VERSION.removeprefix("v").rpartition(".")[0]
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--retries", "0"]
    done = subprocess.run(
        [*install, "--timeout", "15", "--only-binary", ":all:", f"duckdb=={release}.*"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip(f"DuckDB {release} cannot be installed here: {done.stderr.strip().splitlines()[-1:]}")
    return python


def ask(python: Path | str, index: Path) -> dict[str, Any]:
    done = subprocess.run([str(python), "-c", ASK, str(index)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_every_mart_answers_in_the_oldest_duckdb(older: Path, tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "root"))
    Run().write(journal)
    with Store(tmp_path / "audit.duckdb") as store:
        store.consolidate(journal)
        index = store.publish(tmp_path / "published")
    old, new = ask(older, index), ask(sys.executable, index)
    assert STORAGE_VERSION.startswith(f"v{old['version'].rpartition('.')[0]}.")
    assert new["version"] == duckdb.__version__ != old["version"]
    assert sorted(old["rows"]) == sorted(relations("marts"))
    assert old["rows"]["mart_crr"] and old["rows"] == new["rows"]
