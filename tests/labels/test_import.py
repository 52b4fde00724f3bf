"""Two raters' files: agreed on, counted, kept for good; everything that is wrong with them has a message of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from audit.labels.calibrating import calibrations
from audit.labels.stored import stored
from audit.storage.journal import Journal
from flows.cli import main
from tests.labels import runs
from tests.labels.conftest import Labelled

Paths = list[Path]


def imported(labelled: Labelled, *paths: Path, run_id: str = "run-1", options: tuple[str, ...] = ()) -> int:
    """The exit code of `labels import`."""
    return main(["labels", "import", run_id, *map(str, paths), "--root", str(labelled.root), *options])


def two(labelled: Labelled) -> Paths:
    """The files of two raters who are always right."""
    return [runs.rater_file(labelled.folder, name, runs.honest(labelled.truth)) for name in ("Ann", "Bo")]


def edit(path: Path, **changes: Any) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def test_labels_are_counted_told_and_stored_once(labelled: Labelled, capsys: pytest.CaptureFixture[str]) -> None:
    paths = two(labelled)
    assert imported(labelled, *paths, options=("--json",)) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["new"] and told["agreement"]["ring"]["kappa"] == 1.0
    rows = {(row["detector"], row["concept"], row["domain"]): row for row in told["judges"]}
    exact = rows["judge", "ring", "generated"]
    assert exact["found"] == exact["positives"] > 50 and exact["cleared"] == exact["negatives"] > 40
    poor = rows["other", "ring", "generated"]
    assert (poor["positives"], poor["negatives"]) == (exact["positives"], exact["negatives"])
    assert 0.3 < poor["found"] / poor["positives"] < 0.7
    assert rows["judge", "ring", "reference"]["negatives"] == 0
    assert not rows["judge", "ring", "reference"]["enough"]
    (review,) = told["review"]
    assert review["real"] < review["hits"] and review["missed"] == 0
    assert imported(labelled, *reversed(paths), options=("--json",)) == 0
    again = json.loads(capsys.readouterr().out)
    assert (again["new"], again["sha256"]) == (False, told["sha256"])
    (name,) = (labelled.root / "labels").iterdir()
    assert name.name == f"{hashlib.sha256(name.read_bytes()).hexdigest()}.json"
    assert b"PNG" not in name.read_bytes()
    assert imported(labelled, *paths) == 0
    printed = capsys.readouterr().out
    assert re.search(r"judge +ring +generated +(\d+) of \1", printed) and "stored before" in printed


def test_the_gate_reads_the_same_counts(labelled: Labelled, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(labelled, *two(labelled), options=("--json",)) == 0
    told = json.loads(capsys.readouterr().out)
    rows = {(row["detector"], row["concept"], row["domain"]): row for row in told["judges"]}
    known = calibrations(Journal(str(labelled.root)), "run-1")
    assert len(known) == len(rows)
    for calibration in known:
        counted = dataclasses.asdict(calibration)
        row = rows[calibration.detector, calibration.concept, calibration.domain]
        assert {name: counted[name] for name in ("positives", "found", "negatives", "cleared")}.items() <= row.items()
        assert calibration.sha256 == told["sha256"]


def one(b: Labelled) -> Paths:
    return two(b)[:1]


def same_rater(b: Labelled) -> Paths:
    first, second = two(b)
    return [first, edit(second, rater=" ANN ")]


def other_task(b: Labelled) -> Paths:
    folder = b.folder.parent / "other"
    assert main(["labels", "export", "run-1", "--to", str(folder), "--root", str(b.root), "--seed", "1"]) == 0
    return [two(b)[0], runs.rater_file(folder, "Bo", runs.honest(b.truth))]


def changed(**changes: Any) -> Callable[[Labelled], Paths]:
    """The second rater's file with other fields."""

    def make(b: Labelled) -> Paths:
        first, second = two(b)
        return [first, edit(second, **changes)]

    return make


def relabelled(change: Callable[[dict[str, Any]], object]) -> Callable[[Labelled], Paths]:
    def make(b: Labelled) -> Paths:
        first, second = two(b)
        labels = json.loads(second.read_text())["labels"]
        change(labels)
        return [first, edit(second, labels=labels)]

    return make


def content(data: bytes) -> Callable[[Labelled], Paths]:
    def make(b: Labelled) -> Paths:
        first, second = two(b)
        second.write_bytes(data)
        return [first, second]

    return make


def no_file(b: Labelled) -> Paths:
    return [two(b)[0], b.folder / "nobody.json"]


def edited_picture(b: Labelled) -> Paths:
    picture = next((b.folder / "pictures").iterdir())
    picture.write_bytes(picture.read_bytes() + b"\0")
    return two(b)


def removed_picture(b: Labelled) -> Paths:
    next((b.folder / "pictures").iterdir()).unlink()
    return two(b)


def another_judge(b: Labelled) -> Paths:
    plan = b.root / "runs/run-1/plan.json"
    document = json.loads(plan.read_text())
    document["rules"] = [{**rule, "threshold": 0.7} for rule in document["rules"]]
    plan.write_text(json.dumps(document))
    return two(b)


def changed_record(b: Labelled) -> Paths:
    (path,) = (b.root / "runs/run-1").glob("label-task-*.json")
    path.write_text(path.read_text().replace('"judge":"clear"', '"judge":"hit"', 1))
    return two(b)


def foreign_root(b: Labelled) -> Paths:
    (path,) = (b.root / "runs/run-1").glob("label-task-*.json")
    path.unlink()
    return two(b)


def few_positives(b: Labelled) -> Paths:
    return [runs.rater_file(b.folder, name, lambda concept, pixels: "does-not") for name in ("Ann", "Bo")]


MISTAKES: dict[str, tuple[Callable[[Labelled], Paths], str]] = {
    "one rater": (one, "two raters are needed, and 1 file given"),
    "three raters": (lambda b: [*two(b), two(b)[0]], "two raters are needed, and 3 files given"),
    "the same rater twice": (same_rater, "both files are by 'Ann': two different people"),
    "the same file twice": (lambda b: [two(b)[0]] * 2, "both files are by 'Ann'"),
    "labels of another run": (changed(run_id="run-2"), "labels of another run: 'run-2', not 'run-1'"),
    "labels of two tasks": (other_task, "two files are of different tasks"),
    "a task that is not here": (foreign_root, "labels of another task: none with this digest"),
    "a task's record that was changed": (changed_record, "stored task is not the one that the raters were given"),
    "another judge": (another_judge, "labels for another judge: 'judge'"),
    "an unfinished file": (relabelled(lambda labels: labels.popitem()), "unfinished: 1 of [0-9]+ pictures have no label"),
    "pictures that nobody asked about": (relabelled(lambda labels: labels.update({"x" * 90: "shows"})), "labels 1 picture "),
    "a label of another kind": (relabelled(lambda labels: labels.update({next(iter(labels)): "yes"})), r"labels\.\w+: Input"),
    "a newer version": (changed(version=2), "of version 2, and this erasure-audit reads version 1"),
    "a version that is none": (changed(version="x"), "its version is 'x', which is none"),
    "an unknown field": (changed(extra=1), "extra: Extra inputs are not permitted"),
    "another kind of file": (changed(format="erasure-audit label task"), "no file of the kind 'erasure-audit labels'"),
    "the task in a rater's place": (lambda b: [b.folder / "task.json", two(b)[1]], "no file of the kind"),
    "no JSON": (content(b"{"), "cannot be read: it is not valid JSON"),
    "a list": (content(b"[]"), "no file of the kind"),
    "binary": (content(bytes(range(256))), "cannot be read: it is not UTF-8"),
    "nested without end": (content(b"[" * 9000), "nested deeper than 64 levels"),
    "no such file": (no_file, "cannot be read: No such file"),
    "a folder": (lambda b: [two(b)[0], b.folder], "cannot be read: it is a folder"),
    "a rater without a name": (changed(rater="  "), "rater: a name of letters is needed"),
    "a rater's name that rewrites the terminal": (changed(rater="\x1b[2J"), "rater: a name of letters"),
    "a name without end": (changed(rater="x" * 5000), "rater: String should have at most 80"),
    "no time": (changed(saved_at="yesterday"), "saved_at: Invalid isoformat"),
    "a time without a zone": (changed(saved_at="2026-11-28T10:00:00"), "saved_at: a time without a time zone"),
    "a time that UTC has not": (changed(saved_at="0001-01-01T00:00:00+05:00"), "saved_at: a time outside of the years"),
    "saved in the future": (changed(saved_at="2999-01-01T00:00:00Z"), "saved in the future"),
    "labelled before there were pictures": (changed(started_at="2001-01-01T00:00:00Z"), "before the pictures were exported"),
    "saved before it was begun": (changed(started_at="2998-01-01T00:00:00Z"), "before the labelling began"),
    "a picture that was edited": (edited_picture, "picture of the folder was edited, replaced or removed"),
    "a picture that was removed": (removed_picture, "picture of the folder was edited, replaced or removed"),
    "too few positives": (few_positives, r"too few pictures were labelled.*judge on 'ring': 0 that show it and \d+ that"),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_message_and_exit_code_2(
    name: str, labelled: Labelled, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = MISTAKES[name]
    paths = make(labelled)
    capsys.readouterr()
    assert imported(labelled, *paths) == 2
    told = capsys.readouterr()
    assert re.search(message, " ".join(told.err.split())), told.err
    assert "\x1b" not in told.err and told.err.count("error:") == 1
    assert not (labelled.root / "labels").exists()


def test_a_run_that_is_not_there(labelled: Labelled, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(labelled, *two(labelled), run_id="run-9") == 2
    assert "run-9" in capsys.readouterr().err


def test_the_folder_is_looked_at_wherever_the_files_are(
    labelled: Labelled, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    downloads = tmp_path / "downloads"
    downloads.mkdir()
    paths = [Path(shutil.move(path, downloads)) for path in two(labelled)]
    edited_picture(labelled)
    assert imported(labelled, *paths, options=("--folder", str(labelled.folder))) == 2
    assert "was edited" in capsys.readouterr().err
    assert imported(labelled, *paths) == 0  # without it nothing says where the pictures are


def test_stored_labels_that_were_changed_are_refused(labelled: Labelled) -> None:
    assert imported(labelled, *two(labelled)) == 0
    journal = Journal(str(labelled.root))
    ((digest, _),) = stored(journal)
    path = labelled.root / f"labels/{digest}.json"
    path.write_text(path.read_text().replace("does-not", "shows", 1))
    with pytest.raises(Exception, match="stored labels were changed"):
        calibrations(journal, "run-1")
