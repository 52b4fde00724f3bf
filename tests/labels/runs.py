"""Runs whose pictures are rendered scenes, so that what they show is known, and raters who say what they show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from audit.corpus import images
from audit.labels.documents import Task
from audit.storage.journal import Journal
from audit.testbed.scenes import Scene, contains, sample_scene
from tests.synthetic import Run, cell, control, instrument

CONCEPTS = [{"name": "ring", "phrase": "a ring", "neighbour_phrases": {"disc": "a round disc"}}]
RULES = [("ring", "ring"), ("disc", "disc")]
# Of 10 pictures of a cell, how many show what is sought: few behind the defence, most of the un-erased model's.
SHOWN = {0: 2, 1: 9, 2: 8, 3: 10}
Truth = dict[tuple[str, str], bool]  # (concept, pixel digest) -> whether it is in the picture
Score = Callable[[bool, int], float]  # truth, number -> score


def exact(truth: bool, number: int) -> float:
    """The score of a judge that never errs."""
    return 0.9 if truth else 0.1


class Pictured(Run):
    """A run about rings: a defended cell, the un-erased model's, a neighbour's and the reference pictures.

    `truth` says what each picture shows; `scores` gives each judge's score from it.
    """

    def __init__(
        self,
        scores: Mapping[str, Score] | None = None,
        planned: int = 60,
        run_id: str = "run-1",
        *,
        sensitive: bool = False,
        offset: int = 0,
        **fields: Any,
    ) -> None:
        self.scores = dict(scores or {"judge": exact})
        self.offset, self.sensitive = offset, sensitive
        super().__init__(
            run_id=run_id,
            unit_size=60,
            cells=(
                cell(0, planned, sensitive=sensitive),
                control(1, planned, "backbone", scenario="text", sensitive=sensitive),
                cell(2, planned // 2, subject="disc", role="neighbour", sensitive=sensitive),
                control(3, planned // 2, "reference", sensitive=sensitive),
            ),
            instruments=[instrument(name, 11 + n, **fields) for n, name in enumerate(self.scores)],
        )
        self.rules = [
            {"detector": i["detector"], "subject": subject, "label": label, "threshold": i["threshold"]}
            for i in self.instruments
            for subject, label in RULES
        ]
        self.truth: Truth = {}
        self._number = {case["image_id"]: n for n, case in enumerate(self.cases)}
        self._scene = {case["image_id"]: self._draw(n, case) for n, case in enumerate(self.cases)}

    def _draw(self, number: int, case: Mapping[str, Any]) -> Scene:
        sought = self.cells[case["cell_id"]]["subject"]
        shown = case["case_no"] % 10 < SHOWN[case["cell_id"]]
        drawn = {"ring": "ring", "disc": "circle"}[sought] if shown else "triangle"
        scene = sample_scene("audit", self.offset + number, n_objects=1, required_class=drawn)
        self.truth[sought, images.pixel_sha256(scene.image)] = contains(scene, drawn) and shown
        return scene

    def plan(self) -> dict[str, Any]:
        document = super().plan()
        concepts = [{**concept, "sensitive": self.sensitive} for concept in CONCEPTS]
        return {**document, "spec": {**document["spec"], "concepts": concepts}}

    def rows(self, key: str) -> list[dict[str, Any]]:
        rows = super().rows(key)
        for row in rows:
            scene = self._scene[row["image_id"]]
            pixels = images.pixel_sha256(scene.image)
            if self.units[key]["kind"] == "generate":
                row["image"] = {"bytes": images.encode_png(scene.image), "path": None}
                row["pixel_sha256"] = pixels
            elif self.units[key]["kind"] == "detect":
                (name,) = [i["detector"] for i in self.instruments if i["instrument_id"] == row["instrument_id"]]
                number = self._number[row["image_id"]]
                row["scores"] = [
                    {"label": label, "score": self.scores[name](self.truth.get((subject, pixels), False), number)}
                    for subject, label in RULES
                ] + [{"label": "star", "score": 0.0}]
        return rows


def written(root: Path, run: Run | None = None) -> Pictured:
    """A run in a journal at `root`."""
    made = run or Pictured()
    made.write(Journal(str(root)))
    assert isinstance(made, Pictured)
    return made


def rater_file(
    folder: Path, rater: str, label: Callable[[str, str], str], path: Path | None = None, **changes: Any
) -> Path:
    """The file of a rater who labels an exported folder by (concept, pixel digest); `changes` replace its fields."""
    task = Task.model_validate_json((folder / "task.json").read_bytes())
    document = {
        "format": "erasure-audit labels",
        "version": 1,
        "run_id": task.run_id,
        "task": task.digest(),
        "rater": rater,
        "started_at": task.exported_at,
        "saved_at": task.exported_at,
        "labels": {picture.id: label(picture.concept, picture.pixel_sha256) for picture in task.pictures},
    }
    path = path or folder / f"labels-{rater}.json"
    path.write_text(json.dumps({**document, **changes}))
    return path


def honest(truth: Truth) -> Callable[[str, str], str]:
    """A rater who says what a picture shows."""
    return lambda concept, pixels: "shows" if truth[concept, pixels] else "does-not"


def scores_of(table: Sequence[float]) -> Score:
    """A judge that gives each picture the score in a table."""
    return lambda truth, number: float(table[number])


def erring(sensitivity: float, specificity: float, seed: int) -> Score:
    """A judge that errs at random with these rates."""

    def score(truth: bool, number: int) -> float:
        right = np.random.default_rng([seed, number]).random() < (sensitivity if truth else specificity)
        return 0.9 if right == truth else 0.1

    return score
