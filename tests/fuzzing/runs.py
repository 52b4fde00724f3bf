"""Boundaries of a run in a journal: its plan, its units, and the index that is made of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from audit import run
from audit.corpus.manifest import read_stored_manifest
from audit.errors import AuditError
from audit.index.queries import read_result, result_frames
from audit.index.store import Store
from audit.plan.document import KINDS, planned_keys, read_outline, read_plan
from audit.storage.journal import Journal
from tests.flows.audits import plan_run, tiny_spec
from tests.fuzzing.harness import Boundary, Opened
from tests.synthetic import Run, cell, control

LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}


def _planned(name: str) -> Callable[[Path], Opened]:
    """A run that was planned and not begun, read as `resume` and `gate` do."""

    def open_boundary(folder: Path) -> Opened:
        root = folder / "runs"
        run_id = plan_run(tiny_spec(folder, folder / "pipeline"), root)
        journal = run.open_journal(str(root))
        path = root / "runs" / run_id / name

        def attempt(data: bytes) -> object:
            path.write_bytes(data)
            outline = read_outline(journal, run_id)
            read_stored_manifest(journal, run_id, outline.corpus_sha256)
            planned_keys(journal, run_id)
            plan = read_plan(journal, run_id)
            pending = [unit for kind in KINDS for unit in plan.pending(kind, journal)]
            cases = [plan.cases_of(unit.key) for unit in pending if unit.kind == "generate"]
            items = [plan.items_of(unit.key) for unit in pending if unit.kind == "invert"]
            return outline.cases, pending, cases, items, plan.document()

        return Opened([path.read_bytes()], attempt)

    return open_boundary


def _finished(chosen: Callable[[Path], Path], read_only: bool = False) -> Callable[[Path], Opened]:
    """A finished run of known outcomes, one of whose files is mutated, folded into an index and read as a result."""

    def open_boundary(folder: Path) -> Opened:
        root = folder / "runs"
        journal = Journal(str(root))
        cells = [cell(0, 4), cell(1, 4, **LATENT), control(2, 2, "black")]
        made = Run("run-1", cells=cells)
        made.write(journal)
        path = chosen(root)
        empty = folder / "empty.duckdb"
        Store(empty).close()  # making the tables costs most of the time
        database = root / "db" / "audit.duckdb"

        def attempt(data: bytes) -> object:
            path.write_bytes(data)
            shutil.rmtree(database.parent, ignore_errors=True)
            database.parent.mkdir()
            shutil.copyfile(empty, database)
            published = run.consolidate(journal, "run-1", database)
            return read_result(published, "run-1"), result_frames(published, "run-1")

        def attempt_unit(data: bytes) -> object:
            path.write_bytes(data)
            kind, key = path.parts[-3], path.name.partition(".")[0]
            return journal.header(kind, key), journal.read(kind, key).to_pylist()

        return Opened([path.read_bytes()], attempt_unit if read_only else attempt)

    return open_boundary


def _kept(chosen: Callable[[Path], Path]) -> Callable[[Path], Opened]:
    """A finished run in an index that is kept: one of its files is mutated, folded in, mended and folded in again."""

    def open_boundary(folder: Path) -> Opened:
        journal = Journal(str(folder / "runs"))
        Run("run-1", cells=[cell(0, 4), cell(1, 4, **LATENT), control(2, 2, "black")]).write(journal)
        path = chosen(folder / "runs")
        whole = path.read_bytes()
        store = Store(folder / "index.duckdb")
        store.consolidate(journal, "run-1")

        def attempt(data: bytes) -> object:
            path.write_bytes(data)
            try:
                return store.consolidate(journal, "run-1")
            finally:
                path.write_bytes(whole)
                try:
                    store.consolidate(journal, "run-1")
                except AuditError as error:
                    raise AssertionError(f"the index refuses the mended run: {error}") from error

        return Opened([whole], attempt)

    return open_boundary


def _run_file(name: str) -> Callable[[Path], Path]:
    return lambda root: root / "runs" / "run-1" / name


def _unit(kind: str) -> Callable[[Path], Path]:
    return lambda root: min((root / "units" / kind).rglob("*.parquet"))


BOUNDARIES = (
    *(
        Boundary(f"planned run's {name}", _planned(name), smoke_count=10)
        for name in ("plan.json", "cases.parquet", "units.parquet", "manifest.parquet")
    ),
    *(Boundary(f"{kind} unit", _finished(_unit(kind), read_only=True)) for kind in ("invert", "generate", "detect")),
    # Making an index costs a fifth of a second, too much for the quick tests.
    *(
        Boundary(f"finished run's {name}", _finished(_run_file(name)), smoke_count=0, slow_count=250)
        for name in ("plan.json", "cases.parquet", "units.parquet", "provenance.json")
    ),
    *(
        Boundary(f"index of {kind} units", _finished(_unit(kind)), smoke_count=0, slow_count=250)
        for kind in ("invert", "generate", "detect")
    ),
    *(
        Boundary(f"kept index of {kind} units", _kept(_unit(kind)), smoke_count=1, slow_count=250)
        for kind in ("invert", "generate", "detect")
    ),
    *(
        Boundary(f"kept index and {name}", _kept(_run_file(name)), smoke_count=1, slow_count=250)
        for name in ("plan.json", "cases.parquet", "units.parquet")
    ),
)
