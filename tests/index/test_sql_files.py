"""The index's version: what a change of the code or of the SQL that fills it asks for."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import audit
from audit.index.sql_files import FOLDING
from audit.index.store import Store

ROOT = Path(audit.__file__).parent.parent
OPEN = "import sys; from audit.errors import AuditError\ntry: from audit.index.store import Store; Store(sys.argv[1]).close()"
OPEN += "\nexcept AuditError as error: print(error)"


@pytest.mark.parametrize(
    ("changed", "asked"),
    [
        ("audit/instruments/set_distances.py", True),
        ("audit/index/quality_folding.py", True),
        ("audit/statistics/binomial.py", True),
        ("audit/statistics/judge_error.py", False),
        ("audit/index/folding.py", True),
        ("sql/staging/stg_outcomes.sql", True),
        ("sql/marts/mart_crr.sql", False),
        ("audit/report/html.py", False),
    ],
)
def test_an_index_filled_by_other_code_asks_for_a_rebuild(tmp_path: Path, changed: str, asked: bool) -> None:
    path = tmp_path / "index.duckdb"
    Store(path).close()
    for folder, suffixes in (("audit", "*.py"), ("sql", "*.sql")):
        for file in (ROOT / folder).rglob(suffixes):
            copy = tmp_path / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
    comment = "--" if changed.endswith(".sql") else "#"
    with (tmp_path / changed).open("a") as stream:
        stream.write(f"{comment} another line\n")
    said = subprocess.run(
        [sys.executable, "-c", OPEN, str(path)], env={**os.environ, "PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        capture_output=True, text=True, check=True, timeout=60,
    ).stdout  # fmt: skip
    assert ("filled by another version" in said and "erasure-audit db rebuild" in said) is asked
    assert asked or not said


def test_no_module_that_folds_is_left_out_of_the_version() -> None:
    """What they import is listed too, but for records, errors, progress and where files lie: that decides no row."""
    decide_nothing = ("errors", "progress", "records", "spec", "storage.errors", "storage.journal")
    used: set[str] = set()
    for name in FOLDING:
        path = ROOT.joinpath("audit", *name.split(".")).with_suffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "audit":
                base = str(node.module).removeprefix("audit").lstrip(".")
                names = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
                used |= {name if _is_module(name) else base for name in names}
    left_out = {
        name for name in used - set(FOLDING) if not f"{name}.".startswith(tuple(f"{d}." for d in decide_nothing))
    }
    assert not left_out
    assert "instruments.set_distances" in used


def _is_module(name: str) -> bool:
    return ROOT.joinpath("audit", *name.split(".")).with_suffix(".py").exists()
