"""The testbed's judges read rendered scenes whose content is known by construction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit import testbed
from audit.instruments.detectors import build
from audit.instruments.detectors.base import Detector
from audit.spec.sections import Concept, DetectorSpec
from audit.testbed.captions import ALL_CLASSES, CLASSES
from audit.testbed.scenes import Scene, sample_scene
from audit.weights.references import resolve_model

WEIGHTS = Path(testbed.__file__).parent / "weights"
pytestmark = pytest.mark.skipif(
    not all((WEIGHTS / name).is_dir() for name in ("judge", "energy", "classifier")),
    reason="the testbed is not trained yet: make testbed",
)

CONCEPTS = tuple(Concept(name=name, phrase=name) for name in ALL_CLASSES)
BACKGROUND = tuple(f"an empty {name} background" for name in ("white", "gray", "black", "sky", "checkered"))
PER_CLASS = 4


def judge(**parameters: Any) -> Detector:
    entry = DetectorSpec(
        name="judge", kind="clip-zero-shot", model="testbed/judge", background=BACKGROUND, parameters=parameters
    )
    return build(entry, CONCEPTS)


def classifier() -> Detector:
    return build(DetectorSpec(name="classes", kind="classifier", model="testbed/classifier"), CONCEPTS)


def scores(found: Detector, scenes: list[Scene]) -> list[dict[str, float]]:
    results = found.measure([scene.image for scene in scenes])
    assert [r.error for r in results] == [None] * len(scenes)
    return [{s.label: s.score for s in r.scores or ()} for r in results]


@pytest.fixture(scope="module")
def singles() -> list[Scene]:
    return [
        sample_scene("audit", index, classes=ALL_CLASSES, n_objects=1, required_class=name)
        for name in ALL_CLASSES
        for index in range(PER_CLASS)
    ]


@pytest.mark.parametrize("make", [judge, classifier])
def test_single_objects_are_recognised(make: Any, singles: list[Scene]) -> None:
    found = scores(make(), singles)
    hits = [row[scene.objects[0].cls] >= 0.5 for row, scene in zip(found, singles, strict=True)]
    assert np.mean(hits) >= 0.95


@pytest.mark.parametrize("make", [judge, classifier])
def test_absent_classes_are_not_seen(make: Any, singles: list[Scene]) -> None:
    found = scores(make(), singles)
    false = [row[c] >= 0.5 for row, s in zip(found, singles, strict=True) for c in ALL_CLASSES if c != s.objects[0].cls]
    assert np.mean(false) <= 0.02


@pytest.mark.parametrize("make", [judge, classifier])
def test_empty_scenes_show_nothing(make: Any) -> None:
    empty = [sample_scene("audit", index, n_objects=0) for index in range(10)]
    assert all(row[name] < 0.5 for row in scores(make(), empty) for name in CLASSES)


def test_judge_energy_and_classifier_are_different_networks() -> None:
    digests = {resolve_model(f"testbed/{name}").sha256 for name in ("judge", "energy", "classifier")}
    assert len(digests) == 3
