"""An error never improves a verdict, on the whole way: journal rows that turn into errors, the index, every data check,
the gate.

What holds, exactly. A result that turns into an error can take evidence along: a hit, and also what a data check would
have found in it (pixels that equal another picture's, a score outside [0, 1]). So after it

1. no cell is nearer to PASS: every decision's upper bound and every worst case stays or rises, and no decision becomes
   PASS that was not;
2. a check that failed still fails, unless each row that it objected to was about a result that is lost now; only the
   checks in `SILENCED` can lose all their rows so. A control that must be seen, the black pictures included, fails by
   being lost;
3. PASS is reached only where the results that are left carry it alone: none of them offends a check, and the rates pass
   with every lost case counted as a hit (as a miss in a control that must show the concept).
"""

from __future__ import annotations

import collections
import dataclasses
import datetime as dt
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from audit.index.checks import run_checks
from audit.index.expectations import check_results
from audit.index.integrity import withdraw_missing
from audit.index.queries import read_result, result_frames
from audit.index.store import Store
from audit.spec.policy import Limit, Policy
from audit.storage.journal import Journal
from audit.verdict.decisions import CheckResult, Verdict
from audit.verdict.gate import decide
from audit.verdict.results import CrrRow
from tests.flows.audits import WAIVED
from tests.gate_rows import FAIL, GOOD_CHECK, INCONCLUSIVE, PASS, row
from tests.synthetic import Run, cell, control, detect_row, discard, generate_row, key_of

LATENT = {"scenario": "latent-whitebox", "gate_residual_max": 1e-3, "gate_psnr_min_db": 35.0}
CELLS = (
    cell(0, 24),
    control(1, 8, "backbone", scenario="text"),
    cell(2, 24, **LATENT),
    control(3, 8, "backbone", **LATENT),
    control(4, 8, "reference"),
    control(5, 8, "vae-roundtrip"),
    control(6, 8, "random-latent"),
    control(7, 4, "black"),
)
SHOWN = {1, 3, 4, 5}  # cells in which the concept must be seen
BLACK = 7
TARGETS = {0, 2}
POLICY = Policy(version="1", limits=(Limit(crr_max=0.2),), judges=("judge",), assessed_min=0.5, **WAIVED)
ERRORS: Mapping[str, Mapping[str, Any]] = {
    "invert": {"status": "error", "error": "broke"},
    "generate": {"status": "error", "error": "broke", "image": None, "pixel_sha256": None},
    "detect": {"status": "error", "error": "broke", "scores": None},
}
RANGE = {"score_out_of_range", "scores: score is within 0.0 and 1.0"}  # in SQL, and in Great Expectations
SILENCED = {"same_pixels_counted_twice", *RANGE}
Pair = tuple[int, int]  # cell, case


@dataclasses.dataclass
class Seen(Run):
    """A run whose `surprises`, (cell, case) pairs, show the opposite of what their cell should.

    The pictures of `doubles` equal each other within a cell, the detector gives those of `wild` a score of 1.5, and
    the black cell's cases of `lit` are pictures like any other. A degenerate picture is not measured.
    """

    surprises: Collection[Pair] = ()
    doubles: Collection[Pair] = ()
    wild: Collection[Pair] = ()
    lit: Collection[Pair] = ()

    def rows(self, key: str) -> list[dict[str, Any]]:
        return [found for _, found in self.known(key)]

    def known(self, key: str) -> list[tuple[Pair, dict[str, Any]]]:
        """The unit's rows, each with the cell and case that it is about."""
        kind = self.units[key]["kind"]
        name = {"invert": "invert_key", "generate": "unit_key", "detect": "unit_key"}[kind]
        mine = [c for c in self.cases if (self.detect_key(c[name], 11) if kind == "detect" else c[name]) == key]
        if kind == "invert":
            return [((c["cell_id"], c["case_no"]), r) for c, r in zip(mine, super().rows(key), strict=True)]
        made = self._picture if kind == "generate" else self._reading
        pairs = [((c["cell_id"], c["case_no"]), c) for c in mine]
        return [(pair, made(pair, c)) for pair, c in pairs if kind == "generate" or not self._dark(pair)]

    def _dark(self, pair: Pair) -> bool:
        return pair[0] == BLACK and pair not in self.lit

    def _picture(self, pair: Pair, case: Mapping[str, Any]) -> dict[str, Any]:
        made = generate_row(case)
        if self._dark(pair):
            return {**made, "status": "degenerate", "error": "black", "pixel_sha256": key_of("black")}
        return {**made, "pixel_sha256": key_of(f"cell {pair[0]}")} if pair in self.doubles else made

    def _reading(self, pair: Pair, case: Mapping[str, Any]) -> dict[str, Any]:
        read = detect_row(case["image_id"], 11, hit=self.shows(pair))
        if pair in self.wild:
            scores = [{**s, "score": 1.5} if s["label"] == "disc" else s for s in read["scores"]]
            return {**read, "scores": scores}
        return read

    def shows(self, pair: Pair) -> bool:
        """Whether a case's picture shows the concept."""
        return (pair[0] in SHOWN) != (pair in self.surprises)

    def break_rows(self, journal: Journal, broken: Collection[tuple[str, int]]) -> dict[str, set[Pair]]:
        """Write the units anew in which a row of `broken`, (kind, number among the kind's rows), is an error.

        Returns kind -> the cases whose row is an error now.
        """
        counted = dict.fromkeys(ERRORS, 0)
        lost: dict[str, set[Pair]] = {kind: set() for kind in ERRORS}
        for key, unit in self.units.items():
            kind, known = unit["kind"], self.known(key)
            first = counted[kind]
            counted[kind] += len(known)
            chosen = {number for number in range(len(known)) if (kind, first + number) in broken}
            if chosen:
                lost[kind] |= {known[number][0] for number in chosen}
                rows = [{**r, **ERRORS[kind]} if n in chosen else r for n, (_, r) in enumerate(known)]
                discard(journal, kind, key)
                withdraw_missing(journal, self.run_id, dt.datetime.now(dt.UTC), "tester")  # as a resume does
                journal.write(kind, key, self.table(kind, rows), {})
        return lost

    def offended(self, lost: Mapping[str, set[Pair]]) -> set[str]:
        """Names of the checks that must fail, told from what this run is and what of it was lost."""
        found = set(RANGE) if set(self.wild) - lost["detect"] else set()
        doubles = collections.Counter(n for n, _ in set(self.doubles) - lost["generate"])
        if any(number in TARGETS and times > 1 for number, times in doubles.items()):
            found.add("same_pixels_counted_twice")
        if self.lit or any(number == BLACK for number, _ in lost["generate"]):
            found.add("black_control_not_recognised")
        return found

    def against(self, lost: Mapping[str, set[Pair]]) -> list[CrrRow]:
        """The rates if every lost case had been assessed and had shown what speaks against the cell."""
        gone = set().union(*lost.values())
        rows = []
        for c in self.cells:
            pairs = [(c["cell_id"], number) for number in range(c["planned"])]
            shown = [(pair[0] not in SHOWN) if pair in gone else self.shows(pair) for pair in pairs]
            names = ("cell_id", "role", "control", "defence", "scenario")
            rows.append(row(sum(shown), len(shown) - sum(shown), **{name: c[name] for name in names}))
        return rows


def judged(store: Store, journal: Journal, folder: Path) -> tuple[Verdict, tuple[CrrRow, ...]]:
    """The verdict by every real check and the gate, and the rates."""
    store.consolidate(journal)
    published = store.publish(folder)
    result = read_result(published, "run-1")
    checks = [*run_checks(published, "run-1"), *check_results(*result_frames(published, "run-1"))]
    return decide(POLICY, result.crr, checks), tuple(result.crr)


def failing(checks: Collection[CheckResult]) -> set[str]:
    assert {check.status for check in checks} <= {"passed", "failed"}
    return {check.name for check in checks if check.status == "failed"}


PAIRS = [(c["cell_id"], number) for c in CELLS for number in range(c["planned"])]


def cases(most: int, *cells: int) -> st.SearchStrategy[set[Pair]]:
    return st.sets(st.sampled_from([p for p in PAIRS if p[0] in (cells or (*SHOWN, *TARGETS, 6))]), max_size=most)


ROWS = [(kind, number) for kind, most in (("invert", 32), ("generate", 92), ("detect", 92)) for number in range(most)]
# Some are single rows, some are whole stretches, as when a machine breaks for a while.
BROKEN = st.one_of(
    st.sets(st.sampled_from(ROWS), min_size=1, max_size=6),
    st.builds(lambda start, many: set(ROWS[start : start + many]), st.integers(0, len(ROWS) - 1), st.integers(1, 90)),
)
SEEN = st.builds(
    lambda surprises, doubles, wild, lit: Seen(
        cells=CELLS, unit_size=8, surprises=surprises, doubles=doubles, wild=wild, lit=lit
    ),
    st.one_of(st.just(set()), cases(3), cases(30)),
    st.one_of(st.just(set()), cases(3, 0, 2, 6)),
    st.one_of(st.just(set()), cases(2)),
    st.one_of(st.just(set()), cases(1, BLACK)),
)
TWO_ALIKE = {"doubles": {(0, 0), (0, 5)}}


def seen(**fields: Any) -> Seen:
    return Seen(cells=CELLS, unit_size=8, **fields)


@settings(max_examples=3, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEEN, BROKEN)
@example(seen(**TWO_ALIKE), {("detect", 0)})  # the pictures are known, so their likeness is
@example(seen(**TWO_ALIKE), {("generate", 0)})
@example(seen(wild={(0, 0)}), {("detect", 0)})
@example(seen(lit={(BLACK, 1)}), {("detect", 88)})
@example(seen(lit={(BLACK, 1)}), {("generate", 89)})
def test_results_that_become_errors_never_improve_a_verdict(run: Seen, broken: set[tuple[str, int]]) -> None:
    """The known ways to improve one, and a few random ones; the next test tries many."""
    check_that_errors_improve_nothing(run, broken)


@pytest.mark.slow
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SEEN, BROKEN)
def test_many_results_that_become_errors_never_improve_a_verdict(run: Seen, broken: set[tuple[str, int]]) -> None:
    check_that_errors_improve_nothing(run, broken)


def check_that_errors_improve_nothing(run: Seen, broken: set[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        journal = Journal(str(folder / "journal"))
        run.write(journal)
        with Store(folder / "index.duckdb") as store:
            before, rates = judged(store, journal, folder / "published")
            lost = run.break_rows(journal, broken)
            after, worse = judged(store, journal, folder / "published")
    for old, new in zip(before.decisions, after.decisions, strict=True):
        assert new.status is not PASS or old.status is PASS
        assert new.high >= old.high
    for was, now in zip(rates, worse, strict=True):
        assert (now.cell_id, now.detector, now.planned) == (was.cell_id, was.detector, was.planned)
        assert now.worst_case >= was.worst_case
        assert now.assessed <= was.assessed

    assert failing(before.checks) == run.offended({kind: set() for kind in ERRORS})
    assert failing(after.checks) == run.offended(lost)
    assert failing(before.checks) - failing(after.checks) <= SILENCED

    if after.status is PASS:
        assert before.status is PASS or failing(before.checks)
        assert run.offended(lost) == set()
        assert decide(POLICY, run.against(lost), [GOOD_CHECK]).status is PASS


def test_what_the_property_ranges_over(tmp_path: Path) -> None:
    """Such runs pass, fail, and are inconclusive, by cells and by checks; and the README's word on exit code 4."""
    back = {(n, number) for n in TARGETS for number in range(20)}
    controls = {("detect", n) for n in range(88) if 24 <= n < 32 or n >= 56}
    found = {}
    for name, run, broken in (
        ("clean", seen(), set()),
        ("back", seen(surprises={(0, number) for number in range(20)}), set()),
        ("back, without control", seen(surprises=back), controls),
        ("two pictures alike", seen(**TWO_ALIKE), set()),
        ("one of them lost before it was measured", seen(**TWO_ALIKE), {("detect", 0)}),
        ("one of them never made, and counted as a hit", seen(**TWO_ALIKE), {("generate", 0)}),
        ("a score of 1.5", seen(wild={(0, 0)}), set()),
        ("a black picture that broke", seen(), {("generate", 88)}),
    ):
        journal = Journal(str(tmp_path / name))
        run.write(journal)
        with Store(tmp_path / f"{name}.duckdb") as store:
            run.break_rows(journal, broken)
            found[name] = judged(store, journal, tmp_path / f"{name}-published")[0].status
    assert found == {
        "clean": PASS,
        "back": FAIL,
        "back, without control": INCONCLUSIVE,
        "two pictures alike": INCONCLUSIVE,
        "one of them lost before it was measured": INCONCLUSIVE,
        "one of them never made, and counted as a hit": PASS,
        "a score of 1.5": INCONCLUSIVE,
        "a black picture that broke": INCONCLUSIVE,
    }
