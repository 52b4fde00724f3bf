"""Damaged files of a stored run, as consolidation and `db runs` read them: tables, or one clear error; never anything else."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.errors import AuditError
from audit.journal import Journal
from audit.plan import planned_keys, read_outline
from audit.store import Store
from tests.mutations import mutations
from tests.synthetic import Run, cell, control, discard, instrument

LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}
MANY = 2_000


def stored(folder: Path) -> tuple[Run, Journal]:
    run = Run("run-1", cells=[cell(0, 6), cell(1, 4, **LATENT), control(2, 3, "black")], instruments=[instrument()])
    journal = Journal(str(folder / "runs"))
    run.write(journal)
    return run, journal


def damage_units(folder: Path, kind: str, count: int) -> None:
    """Consolidate again and again after the first unit's file of a kind was damaged; then whole, as it was."""
    run, journal = stored(folder)
    key = run.key(kind)
    path = Path(journal.store.path(f"units/{kind}/{key[:2]}/{key}.parquet"))
    whole = path.read_bytes()
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, "run-1")
        for i, data in enumerate(mutations([whole], count, seed=14)):
            path.write_bytes(data)
            with contextlib.suppress(AuditError), told(f"{kind} {i}"):
                store.consolidate(journal, "run-1")
        discard(journal, kind, key)
        path.write_bytes(whole)
        assert store.consolidate(journal, "run-1").runs == 1


@contextlib.contextmanager
def told(what: str) -> Iterator[None]:
    """A block whose unexpected errors are named with the number of the mutation."""
    try:
        yield
    except AuditError as error:
        assert error.next_step and len(str(error)) < 3_000, (what, str(error))
        raise
    except Exception as error:
        raise AssertionError(f"mutation {what} ended in {type(error).__name__}: {error}") from error


def damage_run_file(folder: Path, name: str, count: int) -> None:
    _, journal = stored(folder)
    whole = journal.get_run("run-1", name)
    reading: list[Callable[[], object]] = [
        lambda: read_outline(journal, "run-1"),
        lambda: planned_keys(journal, "run-1"),
    ]
    with Store(folder / "index.duckdb") as store:
        reading.append(lambda: store.consolidate(journal, "run-1"))
        for i, data in enumerate(mutations([whole], count, seed=14)):
            journal.put_run("run-1", name, data)
            for read in reading:
                with contextlib.suppress(AuditError), told(f"{name} {i}"):
                    read()
        journal.put_run("run-1", name, whole)
        assert store.consolidate(journal, "run-1").runs == 1


@pytest.mark.parametrize("kind", ["detect", "generate", "invert"])
def test_a_damaged_unit_is_folded_in_or_named(kind: str, tmp_path: Path) -> None:
    damage_units(tmp_path, kind, 15)


@pytest.mark.parametrize("name", ["plan.json", "cases.parquet", "units.parquet"])
def test_a_damaged_run_file_is_read_or_named(name: str, tmp_path: Path) -> None:
    damage_run_file(tmp_path, name, 15)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", ["detect", "generate", "invert"])
def test_many_damaged_units_are_folded_in_or_named(kind: str, tmp_path: Path) -> None:
    damage_units(tmp_path, kind, MANY)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", ["plan.json", "cases.parquet", "units.parquet"])
def test_many_damaged_run_files_are_read_or_named(name: str, tmp_path: Path) -> None:
    damage_run_file(tmp_path, name, MANY)
