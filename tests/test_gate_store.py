"""An error never improves a verdict, on the whole way: journal rows that turn into errors, the index, the gate."""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from audit.gate import decide
from audit.journal import Journal
from audit.policy import Limit, Policy
from audit.reading import read_result
from audit.results import CrrRow, Verdict
from audit.store import Store
from tests.gate_rows import FAIL, GOOD_CHECK, INCONCLUSIVE, PASS
from tests.synthetic import Run, cell, control, detect_row, discard

LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}
CELLS = (
    cell(0, 24),
    control(1, 8, "backbone", scenario="text"),
    cell(2, 24, **LATENT),
    control(3, 8, "backbone", **LATENT),
    control(4, 8, "reference"),
    control(5, 8, "vae-roundtrip"),
    control(6, 8, "random-latent"),
)
SHOWN = {1, 3, 4, 5}  # cells in which the concept must be seen
POLICY = Policy(version="1", limits=(Limit(crr_max=0.2),), judges=("judge",), assessed_min=0.5)
ERRORS: Mapping[str, Mapping[str, Any]] = {
    "invert": {"status": "error", "error": "broke"},
    "generate": {"status": "error", "error": "broke", "image": None, "pixel_sha256": None},
    "detect": {"status": "error", "error": "broke", "scores": None},
}


@dataclasses.dataclass
class Seen(Run):
    """A run whose `surprises`, (cell, case) pairs, show the opposite of what their cell should."""

    surprises: Collection[tuple[int, int]] = ()

    def rows(self, key: str) -> list[dict[str, Any]]:
        if self.units[key]["kind"] != "detect":
            return super().rows(key)
        return [
            detect_row(
                c["image_id"], 11, hit=(c["cell_id"] in SHOWN) != ((c["cell_id"], c["case_no"]) in self.surprises)
            )
            for c in self.cases
            if self.detect_key(c["unit_key"], 11) == key
        ]

    def break_rows(self, journal: Journal, broken: Collection[tuple[str, int]]) -> None:
        """Write the units anew in which a row of `broken`, (kind, number among the kind's rows), is an error."""
        counted = dict.fromkeys(ERRORS, 0)
        for key, unit in self.units.items():
            kind, rows = unit["kind"], self.rows(key)
            first = counted[kind]
            counted[kind] += len(rows)
            changed = [
                {**row, **ERRORS[kind]} if (kind, first + number) in broken else row for number, row in enumerate(rows)
            ]
            if changed != rows:
                discard(journal, kind, key)
                journal.write(kind, key, self.table(kind, changed), {})


def judged(store: Store, journal: Journal, folder: Path) -> tuple[Verdict, tuple[CrrRow, ...]]:
    store.consolidate(journal)
    result = read_result(store.publish(folder), "run-1")
    return decide(POLICY, result.crr, [GOOD_CHECK]), tuple(result.crr)


def cases(most: int) -> st.SearchStrategy[set[tuple[int, int]]]:
    pairs = [(c["cell_id"], number) for c in CELLS for number in range(c["planned"])]
    return st.sets(st.sampled_from(pairs), max_size=most)


ROWS = [(kind, number) for kind, most in (("invert", 32), ("generate", 88), ("detect", 88)) for number in range(most)]
# Some are single rows, some are whole stretches, as when a machine breaks for a while.
BROKEN = st.one_of(
    st.sets(st.sampled_from(ROWS), min_size=1, max_size=6),
    st.builds(lambda start, many: set(ROWS[start : start + many]), st.integers(0, len(ROWS) - 1), st.integers(1, 90)),
)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.just(set()), cases(3), cases(30)), BROKEN)
def test_rows_that_become_errors_never_improve_a_verdict(
    surprises: set[tuple[int, int]], broken: set[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal, run = Journal(str(folder / "journal")), Seen(cells=CELLS, unit_size=8, surprises=surprises)
        run.write(journal)
        with Store(folder / "index.duckdb") as store:
            before, rates = judged(store, journal, folder / "published")
            run.break_rows(journal, broken)
            after, worse = judged(store, journal, folder / "published")
    assert after.status is not PASS or before.status is PASS
    for old, new in zip(before.decisions, after.decisions, strict=True):
        assert new.status is not PASS or old.status is PASS
        assert new.high >= old.high
    for was, now in zip(rates, worse, strict=True):
        assert (now.cell_id, now.detector, now.planned) == (was.cell_id, was.detector, was.planned)
        assert now.worst_case >= was.worst_case
        assert now.assessed <= was.assessed


def test_the_runs_above_can_pass_and_fail_and_broken_controls_make_a_fail_inconclusive(tmp_path: Path) -> None:
    """What the property ranges over; and the README's word on exit code 4."""
    found = {}
    for name, surprises, broken in (
        ("clean", set(), set()),
        ("back", {(0, number) for number in range(20)}, set()),
        (
            "back, without control",
            {(n, number) for n in (0, 2) for number in range(20)},
            {("detect", n) for n in range(88)},
        ),
    ):
        journal = Journal(str(tmp_path / name))
        run = Seen(cells=CELLS, unit_size=8, surprises=surprises)
        run.write(journal)
        with Store(tmp_path / f"{name}.duckdb") as store:
            controls = {row for row in broken if 24 <= row[1] < 32 or row[1] >= 56}
            run.break_rows(journal, controls)
            found[name] = judged(store, journal, tmp_path / f"{name}-published")[0].status
    assert found == {"clean": PASS, "back": FAIL, "back, without control": INCONCLUSIVE}
