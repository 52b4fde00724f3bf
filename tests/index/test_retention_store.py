"""What must survive, from journal rows to the gate: pairs in SQL, and picture checks from feature vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from audit.index.queries import read_result
from audit.index.store import Store
from audit.records import BENIGN_PROMPTS
from audit.storage.journal import Journal
from audit.verdict import damage
from audit.verdict.results import RetentionRow, RunResult
from tests.synthetic import Run, cell, control, key_of

NEIGHBOUR = {"role": "neighbour", "subject": "square"}
BENIGN = {"role": "benign", "subject": BENIGN_PROMPTS}


def read(run: Run, journal: Journal, folder: Path) -> RunResult:
    with Store(folder / "index.duckdb") as store:
        store.consolidate(journal, run.run_id)
        return read_result(store.publish(folder / "published"), run.run_id)


def paired_run(planned: int = 8, **fields: Any) -> Run:
    run = Run(cells=(cell(0, 4), cell(1, planned, defence="none", **fields), cell(2, planned, **fields)))
    # Odd cases of every cell score high for the label ring; here that label means the square.
    run.rules = [{"detector": "judge", "subject": "square", "label": "ring", "threshold": 0.5}]
    return run


def only(rows: tuple[RetentionRow, ...]) -> RetentionRow:
    assert len(rows) == 1
    return rows[0]


def test_cases_are_paired_by_number_and_every_pair_is_counted_once(tmp_path: Path) -> None:
    run, journal = paired_run(**NEIGHBOUR), Journal(str(tmp_path / "root"))
    run.write(journal)
    found = only(read(run, journal, tmp_path).retention)
    assert (found.pairs, found.kept, found.lost, found.gained, found.neither) == (8, 4, 0, 0, 4)


def test_a_picture_that_is_lost_is_unassessed_on_its_own_side(tmp_path: Path) -> None:
    run, journal = paired_run(**NEIGHBOUR), Journal(str(tmp_path / "root"))
    run.write(journal)
    broken = {"status": "error", "error": "broke", "image": None, "pixel_sha256": None}
    # Units of four: 0 is the target's, 1 and 2 the backbone's, 3 and 4 the defence's.
    run.rewrite(journal, "generate", 1, {1: broken, 2: broken})
    run.rewrite(journal, "generate", 3, {1: broken, 3: broken})
    found = only(read(run, journal, tmp_path).retention)
    assert (found.kept, found.lost, found.gained, found.neither) == (2, 0, 0, 3)
    assert (found.unassessed_unassessed, found.unassessed_clear, found.hit_unassessed) == (1, 1, 1)
    counts = [
        getattr(found, name) for name in RetentionRow.__dataclass_fields__ if isinstance(getattr(found, name), int)
    ]
    assert sum(counts) - found.cell_id - found.pairs == found.pairs == 8


def test_another_seed_is_no_pair(tmp_path: Path) -> None:
    run, journal = paired_run(**NEIGHBOUR), Journal(str(tmp_path / "root"))
    for case in run.cases:
        if case["cell_id"] == 1:
            case["seed"] += 1000
    run.write(journal)
    found = only(read(run, journal, tmp_path).retention)
    assert (found.kept, found.unassessed_hit, found.unassessed_clear) == (0, 4, 4)


def test_a_detector_without_a_rule_for_the_subject_says_nothing_of_it(tmp_path: Path) -> None:
    run, journal = paired_run(role="neighbour", subject="moon"), Journal(str(tmp_path / "root"))
    run.write(journal)
    assert read(run, journal, tmp_path).retention == ()


NOISE = (control(3, 8, "noise-latent"), control(4, 4, "noise-pixels"))


def noisy_run(**fields: Any) -> Run:
    """A paired run with noise controls. Odd cases of every cell score high for the label ring, which means the square."""
    run = Run(cells=(*paired_run(**NEIGHBOUR).cells, *NOISE), **fields)
    run.rules = [{"detector": "judge", "subject": "square", "label": "ring", "threshold": 0.5}]
    return run


def test_what_a_detector_says_of_noise_is_counted_for_each_subject(tmp_path: Path) -> None:
    """The detector has no rule for the concept, whose cells the noise controls are."""
    run, journal = noisy_run(), Journal(str(tmp_path / "root"))
    run.write(journal)
    assert only(read(run, journal, tmp_path).retention).noise_share == 0.5
    other = noisy_run(run_id="run-2")
    other.rules[0]["label"] = "disc"
    other.write(journal)
    assert only(read(other, journal, tmp_path).retention).noise_share == 0.0


def test_noise_that_was_not_measured_counts_as_taken_for_the_subject(tmp_path: Path) -> None:
    """An error must not make a judge a better witness than what it would have said."""
    run, journal = noisy_run(), Journal(str(tmp_path / "root"))
    run.write(journal)
    last = sum(unit["kind"] == "detect" for unit in run.units.values()) - 1  # of the four noise pixels
    failed = {"status": "error", "error": "broke", "scores": None}
    run.rewrite(journal, "detect", last, dict.fromkeys(range(4), failed))
    assert only(read(run, journal, tmp_path).retention).noise_share == 1.0


class Pictured(Run):
    """A run whose benign pictures have feature vectors; `shift` moves those of the defence."""

    planned, shift = 40, 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rules = [{"detector": "judge", "subject": "square", "label": "ring", "threshold": 0.5}]
        for case in self.cases:
            if case["cell_id"]:
                unit = self.units.setdefault(
                    key_of(f"quality/{case['unit_key']}"),
                    {
                        "kind": "quality",
                        "key": key_of(f"quality/{case['unit_key']}"),
                        "rows": 0,
                        "cell_ids": [case["cell_id"]],
                    },
                )
                unit["rows"] += 1

    def plan(self) -> dict[str, Any]:
        plan = super().plan()
        plan["spec"]["benign"] = {"instrument": {"name": "picture-check"}}
        plan["quality_instruments"] = [
            {
                "instrument_id": 77, "instrument": "picture-check", "kind": "features", "version": "1", "package": "none",
                "weights_sha256": "0" * 64, "preprocessing": "none", "metrics": [], "parameters": "{}",
            }
        ]  # fmt: skip
        return plan

    def write_vectors(self, journal: Journal, *, without: frozenset[int] = frozenset()) -> None:
        random = np.random.default_rng(5)
        for unit in [unit for unit in self.units.values() if unit["kind"] == "quality"]:
            cases = [case for case in self.cases if key_of(f"quality/{case['unit_key']}") == unit["key"]]
            rows, vectors = [], {}
            for case in cases:
                lost = case["cell_id"] == 2 and case["case_no"] in without
                shift = self.shift if case["cell_id"] == 2 else 0.0
                if not lost:
                    vectors[f"{case['image_id']}/picture"] = random.normal(shift, 1, 12).astype(np.float32)
                rows.append(
                    {
                        "image_id": case["image_id"], "status": "degenerate" if lost else "ok",
                        "error": "black" if lost else None, "baseline": "picture", "baseline_image_id": None,
                        "metric": "vector", "value": None, "instrument_id": 77,
                    }
                )  # fmt: skip
            journal.write("quality", unit["key"], self.table("quality", rows), {}, safetensors.numpy.save(vectors))


def pictured(tmp_path: Path, shift: float, **fields: Any) -> RunResult:
    run = Pictured(
        cells=(cell(0, 4), cell(1, 40, defence="none", **BENIGN), cell(2, 40, **BENIGN)),
    )
    run.shift = shift
    for case in run.cases:
        if case["cell_id"]:
            case["subject"] = "square"
    journal = Journal(str(tmp_path / "root"))
    run.write(journal)
    run.write_vectors(journal, **fields)
    return read(run, journal, tmp_path)


@pytest.mark.parametrize(("shift", "damaged"), [(0.0, False), (3.0, True)])
def test_the_picture_check_reads_the_first_pairs_of_vectors(tmp_path: Path, shift: float, damaged: bool) -> None:
    (check,) = pictured(tmp_path, shift).picture_checks
    assert (check.pictures, check.planned, check.defence) == (damage.PICTURES, 40, "uce")
    assert check.p_value is not None and (check.p_value <= 0.01) is damaged


def test_a_picture_that_is_lost_is_not_replaced_by_a_later_one(tmp_path: Path) -> None:
    (check,) = pictured(tmp_path, 0.0, without=frozenset(range(10))).picture_checks
    assert (check.pictures, check.p_value is None) == (22, False)


def test_too_few_pictures_leave_a_reason(tmp_path: Path) -> None:
    (check,) = pictured(tmp_path, 0.0, without=frozenset(range(20))).picture_checks
    assert (check.p_value, check.reason) == (None, "12 pairs of benign pictures were made; at least 16 are needed")
