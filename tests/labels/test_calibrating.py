"""Which labels serve which judge, and how disagreement counts."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit.labels import calibrating
from audit.labels.calibrating import calibrations
from audit.labels.documents import Judge, Label, LabelledPicture, Rater, StoredLabels
from audit.labels.stored import store
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.calibration import Calibration
from audit.verdict.judges import labels_for
from tests.gate_rows import row
from tests.labels import runs

JUDGE = Judge(detector="judge", instrument_id=11, concept="ring", phrase="a ring", threshold=0.5, labels=("ring",))
SHOWS, DOES_NOT, CANNOT_TELL = Label


def picture(number: int, labels: tuple[str, str], outcome: str = "hit", **fields: Any) -> LabelledPicture:
    described = {
        "id": f"{number:016x}", "concept": "ring", "pixel_sha256": f"{number:064x}", "domain": "generated",
        "sample": "random", "defended": True, "outcomes": {"judge": outcome}, "labels": labels, **fields,
    }  # fmt: skip
    return LabelledPicture.model_validate(described)


def labels(pictures: list[LabelledPicture], run_id: str = "run-1", at: str = "2026-11-01T00:00:00Z") -> StoredLabels:
    raters = tuple(Rater(name=name, started_at=at, saved_at=at) for name in ("Ann", "Bo"))
    return StoredLabels.new(
        run_id=run_id,
        task="0" * 64,
        exported_at=at,
        raters=raters,
        strata=(),
        judges=(JUDGE,),
        pictures=tuple(pictures),
    )


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Plans without units of three runs with the same judge."""
    root = tmp_path_factory.mktemp("plans")
    for run_id in ("run-1", "run-2", "run-3"):
        runs.Pictured(planned=2, run_id=run_id).write_plan(Journal(str(root)))
    return root


@pytest.fixture
def journal(plans: Path, tmp_path: Path) -> Journal:
    shutil.copytree(plans, tmp_path / "runs")
    return Journal(str(tmp_path / "runs"))


def rewrite(journal: Journal, run_id: str, section: str, **changes: Any) -> None:
    document = json.loads(journal.get_run(run_id, "plan.json"))
    document[section] = [{**row, **changes} for row in document[section]]
    journal.put_run(run_id, "plan.json", json.dumps(document).encode())


PAIR = [picture(1, (SHOWS, SHOWS)), picture(2, (DOES_NOT, DOES_NOT), "clear")]


def test_labels_serve_their_run_and_others_with_the_same_judge(journal: Journal) -> None:
    digest, _ = store(journal, labels(PAIR))
    for run_id in ("run-1", "run-2"):
        assert calibrations(journal, run_id) == [
            Calibration("judge", 11, "ring", "generated", 1, 1, 1, 1, "2026-11-01T00:00:00Z", digest)
        ]
    assert calibrations(journal, "run-1", concepts={"disc"}) == []


def policy(threshold: float) -> Policy:
    return Policy.model_validate(
        {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.1}], "thresholds": {"judge": threshold}}
    )


def test_another_threshold_is_another_judge(journal: Journal) -> None:
    store(journal, labels(PAIR))
    assert calibrations(journal, "run-1", policy=policy(0.5))
    assert calibrations(journal, "run-1", policy=policy(0.6)) == []
    assert calibrating.outdated(journal, "run-1") == calibrating.outdated(journal, "run-2") == []
    assert calibrating.outdated(journal, "run-2", policy(0.6)) == calibrating.outdated(journal, "run-1", policy(0.6))
    (judge,) = calibrating.outdated(journal, "run-1", policy(0.6))
    assert (judge.detector, judge.concept, judge.threshold) == ("judge", "ring", 0.6)
    (moved,) = calibrating.known_of_judges(journal, "run-1", policy(0.6))
    chosen, trouble = labels_for(policy(0.6), row(1, 1), [moved], None)
    assert chosen is None and trouble and "of another version of detector judge" in trouble
    rewrite(journal, "run-2", "rules", threshold=0.6)  # planned so, and nobody ever labelled for it
    assert calibrations(journal, "run-2") == calibrating.outdated(journal, "run-2") == []


@pytest.mark.parametrize(
    ("section", "changes"),
    [
        ("instruments", {"instrument_id": 12}),
        ("instruments", {"detector": "renamed"}),
        ("rules", {"label": "star"}),
    ],
)
def test_other_weights_names_or_counted_labels_are_another_judge(
    journal: Journal, section: str, changes: dict[str, Any]
) -> None:
    store(journal, labels(PAIR))
    rewrite(journal, "run-2", section, **changes)
    if "detector" in changes:
        rewrite(journal, "run-2", "rules", **changes)
    assert calibrations(journal, "run-2") == []


def test_another_question_is_another_judge(journal: Journal) -> None:
    store(journal, labels(PAIR))
    document = json.loads(journal.get_run("run-2", "plan.json"))
    document["spec"]["concepts"][0]["phrase"] = "a wedding ring"
    journal.put_run("run-2", "plan.json", json.dumps(document).encode())
    assert calibrations(journal, "run-2") == []


def test_labelling_again_removes_no_mistake(journal: Journal) -> None:
    missed = [picture(1, (SHOWS, SHOWS), "clear"), picture(2, (DOES_NOT, DOES_NOT), "clear")]
    store(journal, labels(missed))
    store(journal, labels([picture(3, (SHOWS, SHOWS))], at="2026-11-09T00:00:00Z"))
    (known,) = calibrations(journal, "run-1")
    assert (known.positives, known.found, known.negatives, known.cleared) == (2, 1, 1, 1)
    assert known.labelled_at == "2026-11-01T00:00:00Z"
    assert known.sha256 not in {path.stem for path in Path(journal.store.base, "labels").iterdir()}


def test_the_same_picture_counts_once_and_later_raters_may_disagree(journal: Journal) -> None:
    store(journal, labels([picture(1, (SHOWS, SHOWS))]))
    store(journal, labels([picture(1, (SHOWS, DOES_NOT))], at="2026-11-09T00:00:00Z"))
    (known,) = calibrations(journal, "run-1")
    assert (known.positives, known.found, known.negatives, known.cleared) == (1, 0, 1, 0)


def test_a_run_s_own_labels_come_first_and_else_those_of_one_run(journal: Journal) -> None:
    store(journal, labels([picture(1, (SHOWS, SHOWS))], "run-2", "2026-11-09T00:00:00Z"))
    store(journal, labels([picture(n, (SHOWS, SHOWS)) for n in (2, 3)], "run-3", "2026-11-02T00:00:00Z"))
    (known,) = calibrations(journal, "run-1")
    assert (known.positives, known.labelled_at) == (1, "2026-11-09T00:00:00Z")
    store(journal, labels([picture(n, (SHOWS, SHOWS)) for n in range(4, 9)]))
    (known,) = calibrations(journal, "run-1")
    assert known.positives == 5


def test_pictures_drawn_for_what_the_judge_said_never_calibrate(journal: Journal) -> None:
    review = [picture(n, (SHOWS, SHOWS), sample="hits") for n in range(10, 90)]
    store(journal, labels([*PAIR, *review]))
    (known,) = calibrations(journal, "run-1")
    assert (known.positives, known.found) == (1, 1)


def test_what_a_judge_has_not_read_says_nothing_of_it(journal: Journal) -> None:
    store(journal, labels([*PAIR, picture(3, (SHOWS, SHOWS), "unassessed"), picture(4, (SHOWS, SHOWS), outcomes={})]))
    (known,) = calibrations(journal, "run-1")
    assert known.positives == 1


def test_reference_pictures_are_counted_apart(journal: Journal) -> None:
    store(journal, labels([*PAIR, picture(3, (SHOWS, SHOWS), "clear", domain="reference")]))
    assert {c.domain: (c.positives, c.found) for c in calibrations(journal, "run-1")} == {
        "generated": (1, 1), "reference": (1, 0),
    }  # fmt: skip


@pytest.mark.parametrize("pair", [p for p in itertools.product(Label, repeat=2) if set(p) not in ({SHOWS}, {DOES_NOT})])
@pytest.mark.parametrize("outcome", ["hit", "clear"])
def test_disagreement_is_a_miss_and_a_false_alarm(pair: tuple[Label, Label], outcome: str) -> None:
    assert calibrating.counts([picture(1, pair, outcome)], "judge") == (1, 0, 1, 0)


answers = st.tuples(st.sampled_from(list(Label)), st.sampled_from(list(Label)))


@given(st.lists(st.tuples(answers, st.sampled_from(["hit", "clear"]), st.sampled_from([SHOWS, DOES_NOT])), max_size=30))
def test_whatever_disputed_pictures_show_the_counts_are_no_better_than_the_truth(cases: list[Any]) -> None:
    """The bounds of sensitivity and specificity fall with misses and with fewer successes: both are no better here."""
    given_labels = [picture(n, pair, outcome) for n, (pair, outcome, _) in enumerate(cases)]
    truth = []
    for n, (pair, outcome, shown) in enumerate(cases):
        agreed = pair[0] if set(pair) in ({SHOWS}, {DOES_NOT}) else shown
        truth.append(picture(n, (agreed, agreed), outcome))
    positives, found, negatives, cleared = calibrating.counts(given_labels, "judge")
    true_positives, true_found, true_negatives, true_cleared = calibrating.counts(truth, "judge")
    assert found <= true_found and positives - found >= true_positives - true_found
    assert cleared <= true_cleared and negatives - cleared >= true_negatives - true_cleared


def test_counts_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="are not counts"):
        Calibration("judge", 11, "ring", "generated", 1, 2, 0, 0, "2026-11-01T00:00:00Z", "0" * 64)
