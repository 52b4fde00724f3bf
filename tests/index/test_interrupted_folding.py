"""Folding can be interrupted between any two batches: the next one finishes it, and the tables are the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from audit.index import folding, unit_folding
from audit.index.store import Store
from audit.storage.journal import Journal
from tests.index.test_store import contents, filled
from tests.synthetic import Run, cell


class Interrupted(BaseException):
    """As a signal would: no handler of an error catches it."""


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """A journal of two runs whose units are folded in many small chunks."""
    journal = Journal(str(tmp_path / "runs"))
    for name in ("run-1", "run-2"):
        Run(name, cells=[cell(0, 6), cell(1, 6)], unit_size=2).write(journal)
    return journal


def interrupted_after(steps: int, step: Callable[..., object]) -> Callable[..., object]:
    """Return `step`, which is interrupted at its end when it is called for the `steps`th time."""
    left = [steps]

    def counted(*arguments: object) -> object:
        result = step(*arguments)
        left[0] -= 1
        if not left[0]:
            raise Interrupted
        return result

    return counted


def test_an_interruption_after_any_batch_changes_nothing(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "_CHUNK_UNITS", 4)
    monkeypatch.setattr(unit_folding, "_BATCH_UNITS", 2)
    path = tmp_path / "index.duckdb"
    steps = {
        "_insert_rows": unit_folding,
        "load_units": folding,
        "load_plan": folding,
        "_put_on_record": folding,
        "decide_cases": folding,
        "fill_intervals": folding,
        "fill_rates": folding,
    }
    for name, module in steps.items():
        for number in (1, 2):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(module, name, interrupted_after(number, getattr(module, name)))
                try:
                    with Store(path) as store:
                        store.consolidate(journal)
                except Interrupted:
                    pass
    with Store(path) as store:
        store.consolidate(journal)
        assert store.consolidate(journal).units == 0
    assert contents(path) == filled(tmp_path / "new.duckdb", journal)


def test_each_kind_is_listed_once_for_all_runs(
    tmp_path: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed: list[str] = []
    listing = journal.listing

    def counted(kind: str) -> object:
        listed.append(kind)
        return listing(kind)

    monkeypatch.setattr(journal, "listing", counted)
    with Store(tmp_path / "index.duckdb") as store:
        store.consolidate(journal)
    assert sorted(listed) == ["detect", "generate"]
